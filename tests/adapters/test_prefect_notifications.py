"""What is sent through a real server: `tests/e2e/test_alarms.py`."""

import socket
import uuid

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from tasks.adapters.prefect_notifications import automations, notify
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.contracts.monitoring import ALARM_EVENTS, MODEL_PROMOTED, ROLLOUT_ABORTED, ROLLOUT_PAUSED
from tasks.runtime.settings import current_settings
from tests.stages.monitored_world import MonitoredWorld

BLOCK, BLOCK_ID = "slack-webhook/oncall", uuid.uuid4()


def test_automations_are_what_prefect_takes_and_every_event_is_told_once():
    from prefect.events.schemas.automations import AutomationCore

    made = [AutomationCore.model_validate(one) for one in automations(BLOCK, BLOCK_ID, "digits")]
    expected = [event for one in made for event in one.trigger.expect]
    assert sorted(expected) == sorted([*ALARM_EVENTS.values(), MODEL_PROMOTED, ROLLOUT_ABORTED, ROLLOUT_PAUSED])
    assert {action.block_document_id for one in made for action in one.actions} == {BLOCK_ID}
    assert all(one.trigger.match["prefect.resource.id"] == ["stillhouse.model.digits"] for one in made)
    (everything, *_) = automations(BLOCK, BLOCK_ID, None)
    assert everything["trigger"]["match"] == {"prefect.resource.id": "stillhouse.model.*"}


def test_automations_have_names_of_their_own_for_each_block_and_model():
    names = {
        one["name"] for block in (BLOCK, "a/b") for model in ("m", None) for one in automations(block, BLOCK_ID, model)
    }
    assert len(names) == 4 * len(automations(BLOCK, BLOCK_ID, None))


@pytest.fixture
def payloads(tmp_path):
    """What comes with the events, by their names: of a drift and a promotion as they are sent, of others by hand."""
    world = MonitoredWorld(tmp_path)
    for hour in range(3):
        world.traffic(hour, shift=0.1 * (hour > 0))
        world.look(hour)
    sent = {one.event: one.payload for one in world.server.events.values()}
    drift = sent["stillhouse.drift.detected"]
    rollout = {"model_name": "m", "version": 1, "since": "noon", "reason": "worse"}
    return dict.fromkeys(ALARM_EVENTS.values(), drift) | {
        MODEL_PROMOTED: sent[MODEL_PROMOTED],
        ROLLOUT_ABORTED: rollout | {"status": "aborted"},
        ROLLOUT_PAUSED: rollout | {"weight": 5.0},
    }


def test_automations_use_only_what_the_events_bring(payloads):
    """The server renders a name that it does not know as nothing, silently."""
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    for automation in automations(BLOCK, BLOCK_ID, None):
        (action,) = automation["actions"]
        for name in automation["trigger"]["expect"]:
            event = {"event": name, "occurred": "now", "payload": payloads[name]}
            subject, body = (environment.from_string(action[part]).render(event=event) for part in ("subject", "body"))
            assert subject == f"m version 1: {name}"
            assert payloads[name]["reason"] in body
            assert "stillhouse" in body, "what to do next"


@pytest.fixture
def closed_port(monkeypatch):
    """The address of a server that is away."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    with temporary_settings({PREFECT_API_URL: address}):
        yield address


def test_notify_names_the_address_when_the_server_is_away(closed_port):
    with pytest.raises(ServiceUnavailableError, match=closed_port):
        notify(current_settings(), BLOCK, None)


def test_notify_refuses_a_block_without_its_type(closed_port):
    with pytest.raises(UserError, match="'oncall' is not TYPE/NAME"):
        notify(current_settings(), "oncall", None)


def test_notify_says_that_no_server_is_addressed(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(current_settings().home / "prefect"))
    with pytest.raises(UserError, match="no Prefect server is addressed"):
        notify(current_settings(), BLOCK, None)
