import logging
import time
from typing import Any

import pytest

from tasks.contracts.monitoring import ROLLOUT_PAUSED
from tasks.contracts.route import Arm
from tasks.decisions.experiment import Observation
from tasks.decisions.rollout import RolloutPolicy, RolloutState, abort, start, tick
from tasks.reporting.rollout_news import pause_markdown, tell

ARMS = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)
BEFORE = start("r1", "digits", *ARMS, RolloutPolicy(steps=(5, 50), max_ticks_per_step=1), "now")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was told Prefect: log levels, artifacts and events."""
    heard: list[Any] = []

    class Log:
        def log(self, level: int, message: str, *values: object) -> None:
            heard.append((level, message % values))

    monkeypatch.setattr("prefect.get_run_logger", Log)
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", lambda text, **named: heard.append(named["key"]))
    monkeypatch.setattr("prefect.events.emit_event", lambda event, **named: heard.append((event, named)))
    return heard


def paused() -> RolloutState:
    return tick(BEFORE, Observation(), BEFORE.policy, "now")[0]


def test_tell_asks_for_a_person_once_for_each_pause(said: list[Any]) -> None:
    state = paused()
    tell(BEFORE, state)

    (level, line), key, (event, named) = said
    assert (level, key, event) == (logging.WARNING, "rollout-digits", ROLLOUT_PAUSED)
    assert "a person should look" in line
    assert named["resource"]["prefect.resource.id"] == "stillhouse.model.digits"
    assert named["payload"]["version"] == 2
    said.clear()
    tell(state, tick(state, Observation(), state.policy, "later")[0])
    assert [level for level, _ in said] == [logging.INFO]


def test_tell_warns_of_a_rollback_and_says_nothing_before_the_first_look(said: list[Any]) -> None:
    tell(BEFORE, BEFORE)
    tell(BEFORE, abort(BEFORE, "x", "now"))
    assert [level for level, _ in said] == [logging.WARNING]


def test_pause_markdown_names_the_commands_that_go_on() -> None:
    text = pause_markdown(paused())
    assert "version 2 of digits waits for a person" in text
    for command in ("resume", "promote", "abort"):
        assert f"`stillhouse rollout {command} digits`" in text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tell_reaches_prefect_as_artifact_and_event() -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    @flow
    def look() -> None:
        tell(BEFORE, paused())

    wanted = {"filter": {"event": {"name": [ROLLOUT_PAUSED]}}}
    with prefect_test_harness(server_startup_timeout=240):
        look()
        with get_client(sync_client=True) as client:
            assert [one.key for one in client.read_artifacts()] == ["rollout-digits"]
            deadline = time.monotonic() + 60
            while not (found := client.request("POST", "/events/filter", json=wanted).json()["events"]):
                assert time.monotonic() < deadline, "the event did not arrive"
                time.sleep(0.1)
    assert found[0]["resource"]["prefect.resource.id"] == "stillhouse.model.digits"
