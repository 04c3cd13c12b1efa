import socket

import pytest

from tasks.adapters.prefect_events import PrefectEvents, as_event
from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.monitoring import Announcement
from tasks.runtime.settings import current_settings

EVENT = Announcement(
    event_id="2b9c9a55-6c0a-5b5e-9d2a-3d1f1c0c7a11",
    event="stillhouse.drift.detected",
    subject="model.digits",
    occurred="2026-05-04T12:00:00+00:00",
    payload={"reason": "brighter", "checks": [{"name": "input_mean_ks", "estimate": 0.2}]},
)


def test_as_event_is_what_prefect_takes():
    from prefect.events.schemas.events import Event

    event = Event.model_validate(as_event(EVENT))
    assert (str(event.id), event.resource.id) == (EVENT.event_id, "stillhouse.model.digits")
    assert event.payload["checks"][0]["estimate"] == 0.2


def test_send_sends_nothing_where_runs_start_servers_of_their_own(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(current_settings().home / "prefect"))
    assert PrefectEvents(current_settings()).send([EVENT]) is False


def test_send_names_the_address_when_the_server_is_away(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ServiceUnavailableError, match=f"{port}"):
        PrefectEvents(current_settings()).send([EVENT])
