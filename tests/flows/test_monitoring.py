"""The loop through a real Prefect server: an event of ours starts the deployment that `prefect.yaml` ties to it."""

import re
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tasks.adapters.prefect_events import PrefectEvents
from tasks.contracts.monitoring import (
    ALARM_EVENTS,
    DATA_PUBLISHED,
    MODEL_PROMOTED,
    ROLLOUT_ABORTED,
    ROLLOUT_PAUSED,
    Announcement,
)
from tasks.decisions.alarms import announcement_id
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.runtime.settings import Settings
from tests.flows.prefect_world import ROOT, prefect_server, until
from tests.stages.monitored_world import MonitoredWorld


def triggers():
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return [(one["name"], trigger) for one in document["deployments"] for trigger in one.get("triggers", [])]


@pytest.mark.parametrize(("deployment", "trigger"), triggers())
def test_a_trigger_expects_events_that_are_sent_and_runs_singly(deployment, trigger):
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (owner,) = [one for one in document["deployments"] if one["name"] == deployment]
    assert set(trigger["expect"]) <= set(ALARM_EVENTS.values())
    assert trigger["match"]["prefect.resource.id"].startswith("stillhouse.model.")
    assert owner["concurrency_limit"]["limit"] == 1
    assert set(trigger["parameters"]) <= set(owner["parameters"])


def test_the_examples_of_the_documentation_are_valid():
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (policy,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert MonitoringPolicy.model_validate(policy) == MonitoringPolicy()


def test_the_documentation_names_every_event():
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for name in (*ALARM_EVENTS.values(), MODEL_PROMOTED, ROLLOUT_ABORTED, ROLLOUT_PAUSED, DATA_PUBLISHED):
        assert name in page


@pytest.fixture
def server(tmp_path, monkeypatch):
    with prefect_server(tmp_path) as started:
        monkeypatch.setenv("PREFECT_API_URL", started.address)
        yield started


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_alarm_starts_the_deployment_that_is_tied_to_it_once(server, tmp_path):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server.command("work-pool", "create", "cpu", "--type", "process")
    server.command("deploy", "--name", "digits-recompress")
    event = Announcement(
        event_id=announcement_id("test"),
        event="stillhouse.latency.regressed",
        subject="model.digits",
        occurred=datetime.now(UTC).isoformat(),
        payload={"reason": "latency of digits: p95 ratio 2.1"},
    )
    # the triggers service loads a new automation within seconds; a message before that would not meet it
    until(lambda: server.filtered("automations"), 60, "no automation was created")
    with temporary_settings({PREFECT_API_URL: server.address}):
        for _ in range(2):  # a repetition under the same id is the same event
            assert PrefectEvents(Settings(home=tmp_path)).send([event])
    (run,) = until(lambda: server.filtered("flow_runs"), 120, "no flow run was scheduled")
    assert run["parameters"] == {
        "plan": "plans/digits.yaml", "max_per_week": 2, "reason": "latency of digits: p95 ratio 2.1",
    }  # fmt: skip
    assert run["state_type"] == "SCHEDULED"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_monitor_model_judges_the_last_window_and_shows_it(tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.testing.utilities import prefect_test_harness

    from flows.monitoring import monitor_model

    world = MonitoredWorld(tmp_path, start=datetime.now(UTC) - timedelta(hours=6))
    for hour in range(6):
        world.traffic(hour, shift=0.1 * (hour >= 2))
    monkeypatch.setattr("tasks.monitor.connect", lambda: world.services)
    with prefect_test_harness(server_startup_timeout=240):
        record = monitor_model("m", 60)
        with get_client(sync_client=True) as client:
            (shown,) = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["monitoring-m"]))
            )
    assert {check.name for check in record.report.failed("drift")} == {"input_mean_ks", "input_mean_psi"}
    assert record.state.judged_until == record.report.until
    assert "input\\_mean\\_ks" in shown.data
