"""Sends events to the Prefect server, whose automations start flows on them."""

import os
from collections.abc import Sequence
from typing import Any

import httpx

from tasks.contracts.addresses import shown, without_secrets
from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.monitoring import Announcement
from tasks.runtime.settings import Settings

_TIMEOUT_S = 10.0


class PrefectEvents:
    """See `tasks.runtime.bookkeeping.Events`.

    By the API itself and not by `prefect.events.emit_event`, which queues in memory and tells nobody when the
    server is away. The server keeps one event per id, and its triggers skip an id seen in the last half hour.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def send(self, announcements: Sequence[Announcement]) -> bool:
        """See `Events.send`."""
        address = server_address(self._settings)
        if address is None:
            return False
        from prefect.client.orchestration import get_client

        body = [as_event(one) for one in announcements]
        try:
            with get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT_S}) as client:
                client.request("POST", "/events", json=body)
        except (httpx.HTTPError, RuntimeError) as error:  # the client tells of an API that is away by RuntimeError
            raise ServiceUnavailableError(
                f"the Prefect server at {shown(address)} (PREFECT_API_URL) took no events: "
                f"{without_secrets(str(error), address)}"
            ) from error
        return True


def server_address(settings: Settings) -> str | None:
    """Return the Prefect server's address; None where each run starts a server of its own."""
    named = os.environ.get("PREFECT_API_URL")
    if named or os.environ.get("PREFECT_HOME") == str(settings.home / "prefect"):
        return named or None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def as_event(announcement: Announcement) -> dict[str, Any]:
    """Return the event as the API takes it."""
    return {
        "id": announcement.event_id,
        "event": announcement.event,
        "occurred": announcement.occurred,
        "resource": {"prefect.resource.id": f"stillhouse.{announcement.subject}"},
        "related": [],
        "payload": announcement.payload,
    }
