"""What prefect.yaml and deploy.py promise, on a real server with real workers: each schedule and trigger starts its
flow once, one run at a time makes a model's next version, a run outlives its worker, and leftovers are told."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import yaml

from infra.prefect.automations import SILENCE_S, automations
from tasks.adapters.prefect_events import PrefectEvents
from tasks.contracts.monitoring import Announcement
from tasks.decisions.alarms import announcement_id
from tasks.runtime.settings import Settings
from tests.e2e.deployed_site import PATIENCE_S, Site, flow_processes, kill, site, small_plan
from tests.flows.prefect_world import prefect_server, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BEGUN = ("RUNNING", "COMPLETED", "FAILED")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with (
        prefect_server(folder, PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="5") as server,
        site(server, folder) as made,
    ):
        made.deploy()
        yield made


def announce(deployed: Site, event: str, reason: str) -> datetime:
    """Send an event about the model `digits`; return when."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    now = datetime.now(UTC)
    announcement = Announcement(
        event_id=announcement_id(event, reason),
        event=event,
        subject="model.digits",
        occurred=now.isoformat(),
        payload={"reason": reason},
    )
    with temporary_settings({PREFECT_API_URL: deployed.server.address}), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", deployed.server.address)
        assert PrefectEvents(Settings(home=deployed.home)).send([announcement])
    return now


def end(worker: Any) -> None:
    found = psutil.Process(worker.pid)
    kill([*found.children(recursive=True), found])


def record(deployed: Site, task: str) -> dict[str, int]:
    """Return the records of a cached task, each with the file that holds it: computing it anew makes another file."""
    return {path.name: path.stat().st_ino for path in (deployed.home / "store" / "stages" / task).iterdir()}


def test_deploying_makes_every_deployment_in_its_pool(deployed: Site) -> None:
    declared = yaml.safe_load((deployed.project / "prefect.yaml").read_text())["deployments"]
    pools = {name: one["work_pool_name"] for name, one in deployed.deployments().items()}
    assert pools == {one["name"]: one["work_pool"]["name"] for one in declared}


def test_a_run_whose_worker_and_process_are_killed_goes_on_elsewhere_with_its_finished_stages(deployed: Site) -> None:
    schedule = {"epochs": 150, "learning_rate": 0.003, "checkpoint_every": 3}
    plan = deployed.project / "plans" / "killed.yaml"
    plan.write_text(small_plan("killed", schedule=schedule))
    checkpoints = deployed.home / "store" / "checkpoints"
    worker = deployed.worker(limit=1)
    run = deployed.start("digits", plan=str(plan))
    # the baseline's own checkpoints are gone when it is finished
    until(lambda: (deployed.home / "store" / "stages" / "export").is_dir(), PATIENCE_S, "no stage was finished")
    until(lambda: any(checkpoints.iterdir()), PATIENCE_S, "no stage is under way")
    trained = record(deployed, "train")

    (flow,) = flow_processes(worker)
    killed = kill([psutil.Process(worker.pid), flow])
    assert deployed.run(run)["state_type"] == "RUNNING", "nobody is left to tell"
    deployed.reaches(run, "SCHEDULED", "Late")
    again = deployed.worker(limit=1)
    done = deployed.reaches(run, "COMPLETED")

    since = {state: moment.timestamp() - killed for state, moment in deployed.history(run)}
    print(f"after SIGKILL of worker and flow, seconds until: {since}")
    end(again)
    assert done["run_count"] == 2
    assert 0 < since["CRASHED"] < SILENCE_S + 60
    assert record(deployed, "train") == trained
    names = {one["name"].rpartition("-")[0]: one["state_name"] for one in deployed.server.filtered("task_runs")}
    assert names["train"] == "Cached"


def test_a_run_that_crashes_again_and_again_is_started_again_no_more_than_the_cap_says(deployed: Site) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from infra.prefect.server import Server

    cap = 2
    with temporary_settings({PREFECT_API_URL: deployed.server.address}), get_client(sync_client=True) as client:
        for document in automations("stillhouse", max_restarts=cap):
            Server(client).put(document)
    assert len([one for one in deployed.server.filtered("automations") if "stillhouse-deploy" in one["tags"]]) == 2

    plan = deployed.project / "plans" / "crashing.yaml"
    plan.write_text(small_plan("crashing", schedule={"epochs": 4000, "learning_rate": 0.003}))
    worker = deployed.worker(limit=1)
    run = deployed.start("digits", plan=str(plan))
    for starts in range(1, cap + 2):
        deployed.reaches(run, "RUNNING", starts=starts)
        kill(flow_processes(worker))
    deployed.reaches(run, "CRASHED", starts=cap + 1)
    end(worker)
    # events are dealt with in turn: when this one has its run, the crash would have had its restart
    announce(deployed, "stillhouse.latency.regressed", "after the last crash")
    found = until(lambda: deployed.all_runs("digits-recompress"), PATIENCE_S, "the event started nothing")

    after = deployed.run(run)
    deployed.cancel(*(one["id"] for one in found))
    assert (after["state_type"], after["run_count"]) == ("CRASHED", cap + 1)
    types = [state for state, _ in deployed.history(run)]
    assert types.count("CRASHED") == cap + 1


def test_the_second_run_of_a_model_waits_or_is_cancelled_as_its_deployment_says(deployed: Site) -> None:
    plan = deployed.project / "plans" / "long.yaml"
    plan.write_text(small_plan("digits", schedule={"epochs": 4000, "learning_rate": 0.003}))
    worker = deployed.worker(limit=2)
    first = deployed.start("digits", plan=str(plan))
    deployed.reaches(first, "RUNNING")

    queued = deployed.start("digits")
    refused = [deployed.start(name) for name in ("retrain", "digits-recompress")]
    for run in refused:
        assert "concurrency limit reached" in deployed.reaches(run, "CANCELLED")["state"]["message"]
    assert deployed.reaches(queued, "AwaitingConcurrencySlot")["run_count"] == 0

    deployed.ask("POST", f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    deployed.reaches(first, "CANCELLED")
    deployed.reaches(queued, *BEGUN, starts=1)
    end(worker)
    deployed.cancel(queued)


def begun_since(deployed: Site, known: set[str], names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Wait until each deployment has a run that is not known and has begun; return those."""

    def begun() -> dict[str, list[dict[str, Any]]] | None:
        found = {
            name: [run for run in deployed.all_runs(name) if run["id"] not in known and run["state_type"] in BEGUN]
            for name in names
        }
        return found if all(found.values()) else None

    found: dict[str, list[dict[str, Any]]] = until(begun, PATIENCE_S, "nothing began")
    return found


def began(run: dict[str, Any]) -> float:
    return datetime.fromisoformat(run["start_time"]).timestamp()


def test_every_schedule_starts_its_flow_once(deployed: Site) -> None:
    scheduled = {name: one for name, one in deployed.deployments().items() if one["schedules"]}
    declared = yaml.safe_load((deployed.project / "prefect.yaml").read_text())["deployments"]
    assert set(scheduled) == {one["name"] for one in declared if "schedules" in one}
    worker = deployed.worker(limit=3)
    late = {}
    # a retraining is cancelled while a compression of its model runs
    for names in (["retrain"], [name for name in scheduled if name != "retrain"]):
        known = {run["id"] for name in names for run in deployed.all_runs(name)}
        due = datetime.now(UTC) + timedelta(seconds=30)
        soon = {"schedule": {"interval": 86400, "anchor_date": due.isoformat()}, "active": True}
        for one in (scheduled[name] for name in names):
            (schedule,) = one["schedules"]
            assert not schedule["active"], "it is switched on where it is wanted"
            deployed.ask("PATCH", f"/deployments/{one['id']}/schedules/{schedule['id']}", soon)
        for name, runs in begun_since(deployed, known, names).items():
            assert len(runs) == 1
            assert runs[0]["auto_scheduled"]
            late[name] = round(began(runs[0]) - due.timestamp(), 1)
            if name != "digits":
                deployed.reaches(runs[0]["id"], "COMPLETED", "FAILED")
            deployed.cancel(runs[0]["id"])
    end(worker)
    print(f"seconds from the scheduled time to the flow's beginning: {late}")
    assert set(late) == set(scheduled)


def test_every_trigger_starts_its_flow_once(deployed: Site) -> None:
    declared = yaml.safe_load((deployed.project / "prefect.yaml").read_text())["deployments"]
    triggers = [
        (event, one["name"]) for one in declared for trigger in one.get("triggers", []) for event in trigger["expect"]
    ]
    assert len(triggers) == 3
    worker = deployed.worker(limit=1)
    for event, name in triggers:
        known = {run["id"] for run in deployed.all_runs(name)}
        sent = announce(deployed, event, f"as {event} says")
        (run,) = begun_since(deployed, known, [name])[name]
        print(f"{event}: {began(run) - sent.timestamp():.1f} s from the event to the flow's beginning")
        assert run["parameters"]["reason"] == f"as {event} says"
        if name == "retrain":
            assert "has no champion" in deployed.reaches(run["id"], "FAILED")["state"]["message"]
        deployed.cancel(run["id"])
        kill(flow_processes(worker))
        assert len([one for one in deployed.all_runs(name) if one["id"] not in known]) == 1
    end(worker)


def test_deploying_again_keeps_switches_and_tells_what_no_file_names(deployed: Site) -> None:
    file = deployed.project / "prefect.yaml"
    document = yaml.safe_load(file.read_text())
    gone, unscheduled, switched = "traffic-retention", "registry", "digits-rollout"
    found = deployed.deployments()[switched]
    deployed.ask("PATCH", f"/deployments/{found['id']}/schedules/{found['schedules'][0]['id']}", {"active": True})
    (drift,) = [one for one in deployed.server.filtered("automations") if one["name"] == "digits-drift"]
    deployed.ask("PATCH", f"/automations/{drift['id']}", {"enabled": False})
    document["deployments"] = [one for one in document["deployments"] if one["name"] != gone]
    del next(one for one in document["deployments"] if one["name"] == unscheduled)["schedules"]
    file.write_text(yaml.safe_dump(document))

    told = deployed.deploy()
    assert f"schedule every-minute of tick-rollout/{switched} stays on" in told
    assert "automation 'digits-drift' stays off" in told
    assert f"deployment prune-traffic/{gone} is in no file: --prune removes it" in told
    assert f"schedule reconcile-models/{unscheduled} every-five-minutes is in no file: --prune removes it" in told
    assert gone in deployed.deployments()

    told = deployed.deploy("--prune")
    assert told.count(": removed") == 2
    left = deployed.deployments()
    assert gone not in left
    assert left[unscheduled]["schedules"] == []
    (schedule,) = left[switched]["schedules"]
    assert (schedule["active"], schedule["schedule"]["interval"]) == (True, 60)
    names = [one["name"] for one in deployed.server.filtered("automations")]
    assert len(names) == len(set(names))
    limits = {name: (one["global_concurrency_limit"] or {}).get("name") for name, one in left.items()}
    assert {name for name, limit in limits.items() if limit == "one-run:digits"} == {
        "digits", "digits-gpu", "digits-recompress", "retrain",
    }  # fmt: skip
    assert "is in no file" not in deployed.deploy()
