"""The loop through a real Prefect server: an event of ours starts the deployment that `prefect.yaml` ties to it."""

import os
import re
import socket
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
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
from tests.stages.monitored_world import MonitoredWorld

ROOT = Path(__file__).parents[2]
CALM = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "true",
}


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
    from prefect.events.schemas.automations import AutomationCore

    page = (ROOT / "docs" / "monitoring.md").read_text()
    notified, policy = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    notified["actions"][0]["block_document_id"] = str(uuid.uuid4())
    assert AutomationCore.model_validate(notified).actions[0].type == "send-notification"
    assert MonitoringPolicy.model_validate(policy) == MonitoringPolicy()


def test_the_documentation_names_every_event():
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for name in (*ALARM_EVENTS.values(), MODEL_PROMOTED, ROLLOUT_ABORTED, ROLLOUT_PAUSED, DATA_PUBLISHED):
        assert name in page


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Prefect server of its own on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    environment = os.environ | CALM | {"PREFECT_HOME": str(tmp_path / "prefect"), "STILLHOUSE_PROJECT": str(ROOT)}
    environment["PREFECT_API_URL"] = address
    environment["PYTHONPATH"] = str(ROOT)
    prefect = [sys.executable, "-m", "prefect"]
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(
        [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
        env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        _until(lambda: _answers(f"{address}/health"), 240, "the server did not start")
        monkeypatch.setenv("PREFECT_API_URL", address)

        def command(*arguments):
            done = subprocess.run(
                [*prefect, "--no-prompt", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr

        yield address, command
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def _answers(url):
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _until(condition, seconds, message):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, message
        time.sleep(0.2)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_alarm_starts_the_deployment_that_is_tied_to_it_once(server, tmp_path):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address, command = server
    command("work-pool", "create", "cpu", "--type", "process")
    command("deploy", "--name", "digits-recompress")
    event = Announcement(
        event_id=announcement_id("test"),
        event="stillhouse.latency.regressed",
        subject="model.digits",
        occurred=datetime.now(UTC).isoformat(),
        payload={"reason": "latency of digits: p95 ratio 2.1"},
    )
    # the triggers service loads a new automation within seconds; a message before that would not meet it
    _until(lambda: httpx.post(f"{address}/automations/count", json={}).json() == 1, 60, "no automation was created")

    def runs():
        return httpx.post(f"{address}/flow_runs/filter", json={}).json()

    with temporary_settings({PREFECT_API_URL: address}):
        for _ in range(2):  # a repetition under the same id is the same event
            assert PrefectEvents(Settings(home=tmp_path)).send([event])
    (run,) = _until(runs, 120, "no flow run was scheduled")
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
