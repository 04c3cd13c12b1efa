"""What prefect.yaml and deploy.py promise, on a real server with real workers: each schedule and trigger starts its
flow once, one run at a time makes a model's next version, a run outlives its worker, and leftovers are told."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import yaml

from infra.prefect.automations import MAX_RESTARTS, SILENCE_S
from tasks.adapters.prefect_events import PrefectEvents
from tasks.contracts.monitoring import Announcement
from tasks.decisions.alarms import announcement_id
from tasks.runtime.settings import Settings
from tests.e2e.deployed_site import PATIENCE_S, Site, flow_processes, kill, lay_out, lay_out_light, small_plan
from tests.flows.prefect_world import PrefectServer, prefect_server, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BEGUN = ("RUNNING", "COMPLETED", "FAILED")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    folder = tmp_path_factory.mktemp("server")
    settings = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5", "PREFECT_SERVER_DATABASE_TIMEOUT": "60"}
    with prefect_server(folder, **settings) as started:
        yield started


@pytest.fixture(scope="module")
def deployed(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """This checkout's deployments."""
    made = lay_out(server, tmp_path_factory.mktemp("site"))
    made.deploy()
    return made


def light(name: str, **more: Any) -> dict[str, Any]:
    """A deployment of a flow that does nothing."""
    variables = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}
    pool = {"name": "cpu", "job_variables": variables}
    return {"name": name, "entrypoint": "flows.py:tidy", "work_pool": pool, "tags": ["mine"]} | more


@pytest.fixture(scope="module")
def mine(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Another project on the same server, whose flows begin and end soon."""
    trigger = {"type": "event", "posture": "Reactive", "expect": ["mine.alarm"], "match": {}, "name": "mine-alarm"}
    one_run = {"entrypoint": "flows.py:linger", "tags": ["mine", "one-run:m"]}
    made = lay_out_light(
        server,
        tmp_path_factory.mktemp("mine"),
        [
            light("waits", **one_run, concurrency_limit={"limit": 1, "collision_strategy": "ENQUEUE"}),
            light("refuses", **one_run, concurrency_limit={"limit": 1, "collision_strategy": "CANCEL_NEW"}),
            light("alarmed", triggers=[trigger]),
            light("gone", triggers=[trigger | {"name": "mine-gone"}]),
            light("kept", schedules=[{"slug": slug, "interval": 86400, "active": False} for slug in ("a", "b")]),
        ],
    )
    made.deploy()
    return made


def announce(deployed: Site, alarm: str, reason: str) -> datetime:
    """Send an event about the model `digits`; return when."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    now = datetime.now(UTC)
    announcement = Announcement(
        event_id=announcement_id(alarm, reason),
        event=alarm,
        subject="model.digits",
        occurred=now.isoformat(),
        payload={"reason": reason},
    )
    with temporary_settings({PREFECT_API_URL: deployed.server.address}), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", deployed.server.address)
        assert PrefectEvents(Settings(home=deployed.home)).send([announcement])
    return now


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
    with deployed.worker(limit=1) as worker:
        run = deployed.start("digits", plan=str(plan))
        # the baseline's own checkpoints are gone when it is finished
        until(lambda: (deployed.home / "store" / "stages" / "export").is_dir(), PATIENCE_S, "no stage was finished")
        until(lambda: any(checkpoints.iterdir()), PATIENCE_S, "no stage is under way")
        trained = record(deployed, "train")
        killed = kill([psutil.Process(worker.pid), *flow_processes(worker)])
    assert deployed.run(run)["state_type"] == "RUNNING", "nobody is left to tell"
    deployed.reaches(run, "SCHEDULED", "Late")
    with deployed.worker(limit=1):
        done = deployed.reaches(run, "COMPLETED")

    since = {state: moment.timestamp() - killed for state, moment in deployed.history(run)}
    print(f"after SIGKILL of worker and flow, seconds until: {since}")
    assert done["run_count"] == 2
    assert 0 < since["CRASHED"] < SILENCE_S + 60
    assert record(deployed, "train") == trained
    tasks = deployed.server.filtered("task_runs", flow_runs={"name": {"any_": ["killed compression"]}})
    assert sorted(one["state_name"] for one in tasks if one["name"].startswith("train-")) == ["Cached", "Completed"]


def test_a_run_that_crashes_again_and_again_is_started_again_no_more_than_the_cap_says(mine: Site) -> None:
    with mine.worker(limit=1) as worker:
        run = mine.start("waits")
        for starts in range(1, MAX_RESTARTS + 2):
            mine.reaches(run, "RUNNING", starts=starts)
            kill(flow_processes(worker))
        mine.reaches(run, "CRASHED", starts=MAX_RESTARTS + 1)
        # crashes are dealt with in turn: when a later one has its restart, this one would have had it
        later = mine.start("waits")
        mine.reaches(later, "RUNNING")
        kill(flow_processes(worker))
        mine.reaches(later, "SCHEDULED", "Late", starts=1)
        mine.cancel(later)

    after = mine.run(run)
    assert (after["state_type"], after["run_count"]) == ("CRASHED", MAX_RESTARTS + 1)
    assert [state for state, _ in mine.history(run)].count("CRASHED") == MAX_RESTARTS + 1


def test_the_second_run_of_a_model_waits_or_is_cancelled_as_its_deployment_says(mine: Site) -> None:
    with mine.worker(limit=2) as worker:
        first = mine.start("waits")
        mine.reaches(first, "RUNNING")

        refused, queued = mine.start("refuses"), mine.start("waits")
        assert "concurrency limit reached" in mine.reaches(refused, "CANCELLED")["state"]["message"]
        assert mine.reaches(queued, "AwaitingConcurrencySlot")["run_count"] == 0

        mine.cancel(first)
        mine.reaches(queued, "RUNNING", starts=1)
        mine.cancel(queued)
        kill(flow_processes(worker))


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
    document = yaml.safe_load((deployed.project / "prefect.yaml").read_text())
    names = {one["name"] for one in document["deployments"] if "schedules" in one}
    scheduled = {name: one for name, one in deployed.deployments().items() if name in names}
    assert set(scheduled) == names
    late = {}
    with deployed.worker(limit=3):
        # a retraining is cancelled while a compression of its model runs
        for turn in (["retrain"], [name for name in scheduled if name != "retrain"]):
            known = {run["id"] for name in turn for run in deployed.all_runs(name)}
            due = datetime.now(UTC) + timedelta(seconds=30)
            soon = {"schedule": {"interval": 86400, "anchor_date": due.isoformat()}, "active": True}
            for one in (scheduled[name] for name in turn):
                (schedule,) = one["schedules"]
                assert not schedule["active"], "it is switched on where it is wanted"
                deployed.ask("PATCH", f"/deployments/{one['id']}/schedules/{schedule['id']}", soon)
            for name, runs in begun_since(deployed, known, turn).items():
                assert len(runs) == 1
                assert runs[0]["auto_scheduled"]
                late[name] = round(began(runs[0]) - due.timestamp(), 1)
                if name != "digits":
                    deployed.reaches(runs[0]["id"], "COMPLETED", "FAILED")
                deployed.cancel(runs[0]["id"])
    print(f"seconds from the scheduled time to the flow's beginning: {late}")
    assert set(late) == set(scheduled)


def test_every_trigger_starts_its_flow_once(deployed: Site) -> None:
    declared = yaml.safe_load((deployed.project / "prefect.yaml").read_text())["deployments"]
    triggers = [
        (event, one["name"]) for one in declared for trigger in one.get("triggers", []) for event in trigger["expect"]
    ]
    assert len(triggers) == 3
    with deployed.worker(limit=1) as worker:
        for alarm, name in triggers:
            known = {run["id"] for run in deployed.all_runs(name)}
            sent = announce(deployed, alarm, f"as {alarm} says")
            (run,) = begun_since(deployed, known, [name])[name]
            print(f"{alarm}: {began(run) - sent.timestamp():.1f} s from the event to the flow's beginning")
            assert run["parameters"]["reason"] == f"as {alarm} says"
            if name == "retrain":
                assert "has no champion" in deployed.reaches(run["id"], "FAILED")["state"]["message"]
            deployed.cancel(run["id"])
            kill(flow_processes(worker))
            assert len([one for one in deployed.all_runs(name) if one["id"] not in known]) == 1


def test_deploying_again_keeps_switches_and_tells_what_no_file_names(mine: Site, server: PrefectServer) -> None:
    file = mine.project / "prefect.yaml"
    document = yaml.safe_load(file.read_text())
    kept = mine.deployments()["kept"]
    for schedule in kept["schedules"]:
        mine.ask("PATCH", f"/deployments/{kept['id']}/schedules/{schedule['id']}", {"active": True})
    (alarm,) = [one for one in server.filtered("automations") if one["name"] == "mine-alarm"]
    mine.ask("PATCH", f"/automations/{alarm['id']}", {"enabled": False})
    strangers = {"name": "theirs", "trigger": alarm["trigger"], "actions": [{"type": "do-nothing"}], "enabled": True}
    mine.ask("POST", "/automations/", strangers)
    document["deployments"] = [one for one in document["deployments"] if one["name"] != "gone"]
    document["deployments"][-1]["schedules"].pop()
    file.write_text(yaml.safe_dump(document))

    told = mine.deploy()
    assert "schedule a of tidy/kept stays on" in told
    assert "automation 'mine-alarm' stays off" in told
    assert "deployment tidy/gone is in no file: --prune removes it" in told
    assert "schedule tidy/kept b is in no file: --prune removes it" in told
    assert "gone" in mine.deployments()

    told = mine.deploy("--prune")
    assert told.count(": removed") == 2
    left = mine.deployments()
    assert "gone" not in left
    assert [(one["slug"], one["active"]) for one in left["kept"]["schedules"]] == [("a", True)]
    switches = {one["name"]: one["enabled"] for one in server.filtered("automations")}
    assert switches["theirs"]
    assert not switches["mine-alarm"]
    assert "mine-gone" not in switches
    limits = {name: (one["global_concurrency_limit"] or {}).get("name") for name, one in left.items()}
    assert limits["waits"] == limits["refuses"] == "one-run:m"
