"""From the log to people and to a scheduled retraining, through a real Prefect server; no worker takes the run."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts.monitoring import ALARM_EVENTS, MODEL_PROMOTED, Announcement
from tasks.decisions.alarms import announcement_id
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.runtime.services import Services, connect
from tasks.runtime.settings import current_settings
from tasks.stages.monitoring import monitor
from tasks.stages.promoting import bootstrap
from tests.adapters.traffic_files import Segments
from tests.cli.model_world import register
from tests.flows.prefect_world import PrefectServer, prefect_server, until
from tests.stages.monitored_world import MonitoredWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(started: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectServer]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: started.address}):
        monkeypatch.setenv("PREFECT_API_URL", started.address)
        yield started


def drifting(folder: Path, weight: float) -> Services:
    """Make real store, ledger and registry whose champion `digits` has met brighter inputs for four hours.

    Another weight is another model, whose events are others.
    """
    services = connect()
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)
    register(services, services.tracker.parent_run("digits", "flow", "run", {}), weight)
    champion = bootstrap(services, "digits", 1, "flow", "first", start.isoformat())
    world = MonitoredWorld(folder / "unused", start=start, digest=champion.candidate)
    world.log = Segments(services.settings.traffic_root, "digits")
    for hour in range(7):  # the present one too: it may end while the test runs
        world.traffic(hour, shift=0.1 * (hour >= 2))
    return services


def alarm(name: str, reason: str) -> Announcement:
    return Announcement(
        event_id=announcement_id(name, reason),
        event=name,
        subject="model.digits",
        occurred=datetime.now(UTC).isoformat(),
        payload={"reason": reason},
    )


def test_drift_in_the_log_schedules_one_retraining_that_knows_why(server: PrefectServer, tmp_path: Path) -> None:
    from flows.monitoring import monitor_model

    services = drifting(tmp_path, 1.0)
    server.command("work-pool", "create", "cpu", "--type", "process")
    server.command("deploy", "--name", "retrain")
    until(lambda: server.filtered("automations"), 60, "no automation was created")

    def retrainings() -> list[dict[str, Any]]:
        return server.filtered("flow_runs", flows={"name": {"any_": ["retrain-model"]}})

    before = monitor(services, "digits", 60, MonitoringPolicy(), datetime.now(UTC) - timedelta(hours=1))
    assert (before.raised, retrainings()) == ((), [])
    (raised,) = monitor_model("digits", 60).raised
    (run,) = until(retrainings, 300, "no retraining was scheduled")
    assert monitor_model("digits", 60).raised == ()  # the same window again
    # events are dealt with in turn: when this one has its run, what the second look sent would have had one too
    services.events.send([alarm(ALARM_EVENTS["accuracy"], "the last one")])
    runs = until(lambda: len(found := retrainings()) > 1 and found, 300, "the last event scheduled nothing")

    assert "input_mean_ks" in raised.summary
    assert run["state_type"] == "SCHEDULED"
    assert run["parameters"] == {"model_name": "digits", "plan": "plans/digits.yaml", "reason": raised.summary}
    assert sorted(one["parameters"]["reason"] for one in runs) == sorted([raised.summary, "the last one"])


def test_an_active_schedule_of_a_deployment_schedules_runs(server: PrefectServer) -> None:
    server.command("work-pool", "create", "cpu", "--type", "process", "--overwrite")
    server.command("deploy", "--name", "registry")
    (deployment,) = server.filtered("deployments", deployments={"name": {"any_": ["registry"]}})
    (schedule,) = deployment["schedules"]

    assert not schedule["active"], "it is switched on where it is wanted"
    server.command("deployment", "schedule", "resume", "reconcile-models/registry", schedule["id"])

    def runs() -> list[dict[str, Any]]:
        return server.filtered("flow_runs", deployments={"id": {"any_": [deployment["id"]]}})

    found = until(runs, 300, "the schedule brought no run: does Prefect's scheduler work with this SQLAlchemy?")
    assert {run["auto_scheduled"] for run in found} == {True}


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An HTTP receiver on loopback: its address, and the bodies that it got."""
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/hook", got
        listening.shutdown()
        thread.join()


def told_by(server: PrefectServer) -> list[str]:
    """Names of the automations that send notifications."""
    found = server.filtered("automations")
    return sorted(one["name"] for one in found if one["actions"][0]["type"] == "send-notification")


def test_people_are_told_what_drifted_how_much_and_since_when(server: PrefectServer, tmp_path: Path) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from tasks.adapters.prefect_notifications import notify, stop_notifying

    with receiver() as (url, got):
        block = CustomWebhookNotificationBlock(
            name="oncall", url=url, json_data={"subject": "{{subject}}", "text": "{{body}}"}
        )
        block.save("oncall")
        names = notify(current_settings(), "custom-webhook/oncall", "digits")
        assert notify(current_settings(), "custom-webhook/oncall", "digits") == names
        assert told_by(server) == sorted(names)

        services = drifting(tmp_path, 2.0)
        monitor(services, "digits", 60, MonitoringPolicy(), datetime.now(UTC) - timedelta(hours=1))
        (raised,) = monitor(services, "digits", 60, MonitoringPolicy(), datetime.now(UTC)).raised
        until(lambda: len(got) >= 2, 300, "nothing was sent")
        told = {one["subject"].rpartition(" ")[2]: one for one in got}

        assert stop_notifying(current_settings(), "custom-webhook/oncall", "digits") == names
        assert told_by(server) == []

    assert set(told) == {ALARM_EVENTS["drift"], MODEL_PROMOTED}
    drift, promoted = told[ALARM_EVENTS["drift"]], told[MODEL_PROMOTED]
    assert drift["subject"] == "digits version 1: stillhouse.drift.detected"
    assert "input_mean_ks: effect 0." in drift["text"], "what, and how much"
    assert f"Since {raised.since}" in drift["text"]
    assert promoted["text"].startswith("bootstrap by flow at ")
    assert "first" in promoted["text"]
