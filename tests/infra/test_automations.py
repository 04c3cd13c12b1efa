"""The automations, held against Prefect's own evaluation of triggers."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from infra.prefect.automations import MAX_RESTARTS, REST_S, SILENCE_S, automations
from tests.infra.manifests import ROOT, compose, documents

SILENT, CRASHED = automations("stillhouse")


def event(name: str, *, tag: str = "stillhouse", run_count: int | None = None) -> Any:
    from prefect.server.events.schemas.events import ReceivedEvent

    resource = {"prefect.resource.id": f"prefect.flow-run.{uuid.uuid4()}"}
    if run_count is not None:
        resource["prefect.run-count"] = str(run_count)
    related = [
        {"prefect.resource.id": f"prefect.deployment.{uuid.uuid4()}", "prefect.resource.role": "deployment"},
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"},
    ]
    return ReceivedEvent(
        id=uuid.uuid4(),
        occurred=datetime.now(UTC),
        event=f"prefect.flow-run.{name}",
        resource=resource,
        related=related,
    )


def trigger(document: dict[str, Any]) -> Any:
    from prefect.server.events.schemas.automations import AutomationCore

    return AutomationCore.model_validate(document).trigger


@pytest.mark.parametrize("run_count", range(MAX_RESTARTS + 2))
def test_a_crashed_run_is_started_again_as_often_as_the_cap_says_and_not_if_it_never_began(run_count: int) -> None:
    assert trigger(CRASHED).covers(event("Crashed", run_count=run_count)) == (1 <= run_count <= MAX_RESTARTS)


def test_automations_look_at_runs_of_our_deployments_alone() -> None:
    assert not trigger(CRASHED).covers(event("Crashed", tag="others", run_count=1))
    assert not trigger(SILENT).covers(event("heartbeat", tag="others"))
    assert trigger(SILENT).covers(event("heartbeat"))


@pytest.mark.parametrize("state", ["Failed", "Completed", "Cancelled", "Running"])
def test_a_run_that_did_not_crash_is_not_started_again(state: str) -> None:
    assert not trigger(CRASHED).covers(event(state, run_count=1))


def test_a_crashed_run_is_left_alone_for_a_while_and_for_good_if_somebody_started_it() -> None:
    crashed = trigger(CRASHED)
    assert crashed.starts_after("prefect.flow-run.Crashed")
    assert crashed.within == timedelta(seconds=REST_S)
    assert not crashed.expects("prefect.flow-run.Crashed")
    assert crashed.expects("prefect.flow-run.Scheduled")


@pytest.mark.parametrize("state", ["Failed", "Completed", "Cancelled", "Crashed"])
def test_a_run_that_ended_is_not_missed(state: str) -> None:
    silent = trigger(SILENT)
    assert silent.starts_after("prefect.flow-run.heartbeat")
    assert silent.starts_after("prefect.flow-run.Running"), "it may be lost before its first heartbeat"
    assert not silent.starts_after("prefect.flow-run.Pending"), "a cluster may have to start a node first"
    assert silent.expects(f"prefect.flow-run.{state}")
    assert not silent.starts_after(f"prefect.flow-run.{state}")


def test_three_heartbeats_fit_into_the_silence_that_is_taken_for_death_wherever_a_flow_runs() -> None:
    assert trigger(SILENT).within == timedelta(seconds=SILENCE_S)
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    settings = [one["work_pool"]["job_variables"]["env"] for one in deployments]
    settings.append(compose()["services"]["worker-cpu"]["environment"])
    (cluster,) = [
        one["data"]
        for one in documents(ROOT / "infra/k8s/base/settings.yaml")
        if one["metadata"]["name"] == "stillhouse-settings"
    ]
    for environment in [*settings, cluster]:
        assert 3 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) <= SILENCE_S
