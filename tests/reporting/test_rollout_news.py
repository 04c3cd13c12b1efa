import logging
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.contracts.route import Arm
from tasks.decisions.experiment import Observation
from tasks.decisions.rollout import RolloutPolicy, RolloutState, abort, start, tick
from tasks.reporting.rollout_news import pause_markdown, tell

ARMS = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)
BEFORE = start("r1", "digits", *ARMS, RolloutPolicy(steps=(5, 50), max_ticks_per_step=1), "now")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was told Prefect: log levels and artifacts."""
    heard: list[Any] = []

    class Log:
        def log(self, level: int, message: str, *values: object) -> None:
            heard.append((level, message % values))

    monkeypatch.setattr("prefect.get_run_logger", Log)
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", lambda text, **named: heard.append(named["key"]))
    return heard


def paused() -> RolloutState:
    return tick(BEFORE, Observation(), BEFORE.policy, "now")[0]


def test_tell_asks_for_a_person_once_for_each_pause(said: list[Any]) -> None:
    state = paused()
    tell(BEFORE, state)

    (level, line), key = said
    assert (level, key) == (logging.WARNING, "rollout-digits")
    assert "a person should look" in line
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


def test_tell_makes_an_artifact_that_prefect_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own classes build and check the request; what lies behind them, a server, is not needed for that."""
    from prefect.client.schemas.actions import ArtifactCreate

    sent: list[ArtifactCreate] = []

    class Client:
        def create_artifact(self, artifact: ArtifactCreate) -> SimpleNamespace:
            sent.append(artifact)
            return SimpleNamespace(id=uuid.uuid4())

    monkeypatch.setattr("prefect.artifacts.get_client", lambda **_: Client())
    monkeypatch.setattr("prefect.artifacts.get_run_context", lambda: None)
    monkeypatch.setattr("prefect.get_run_logger", lambda: logging.getLogger(__name__))

    tell(BEFORE, paused())

    (artifact,) = sent
    assert (artifact.key, artifact.type, artifact.data) == ("rollout-digits", "markdown", pause_markdown(paused()))
