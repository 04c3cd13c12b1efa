"""Automations on the Prefect server that tell people, through a notification block, what our events say.

The server sends: it has the block with its secrets, and goes on when the process that made an event has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from tasks.adapters.prefect_events import server_address
from tasks.contracts.addresses import shown, without_secrets
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.contracts.monitoring import ALARM_EVENTS, MODEL_PROMOTED, ROLLOUT_ABORTED, ROLLOUT_PAUSED

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from tasks.contracts.value import Slug
    from tasks.runtime.settings import Settings

_TIMEOUT_S = 10.0
_SUBJECT = "{{ event.payload.model_name }} version {{ event.payload.version }}: {{ event.event }}"


@dataclass(frozen=True)
class _News:
    """What is told in one way."""

    name: str
    events: tuple[str, ...]
    body: str
    """A Jinja template over the event."""


_NEWS = (
    _News(
        "alarms",
        tuple(ALARM_EVENTS.values()),
        "{{ event.payload.reason }}\n"
        "Since {{ event.payload.since }}, judged until {{ event.payload.until }}. "
        "Look: stillhouse watch {{ event.payload.model_name }} --once",
    ),
    _News(
        "rollouts that wait for a person",
        (ROLLOUT_PAUSED,),
        "Waiting at {{ event.payload.weight }} % since {{ event.payload.since }}: {{ event.payload.reason }}\n"
        "Go on: stillhouse rollout resume|promote|abort {{ event.payload.model_name }}",
    ),
    _News(
        "aborted rollouts",
        (ROLLOUT_ABORTED,),
        "{{ event.payload.status }} at {{ event.occurred }}: {{ event.payload.reason }}\n"
        "The rollout began at {{ event.payload.since }}. "
        "Look: stillhouse rollout status {{ event.payload.model_name }}",
    ),
    _News(
        "promotions",
        (MODEL_PROMOTED,),
        "{{ event.payload.action }} by {{ event.payload.actor }} at {{ event.occurred }}: {{ event.payload.reason }}\n"
        "Look: stillhouse model history {{ event.payload.model_name }}",
    ),
)


def notify(settings: Settings, block: str, model_name: Slug | None) -> list[str]:
    """Have the server send news through `block`, and return the names of its automations.

    Asking again changes nothing but what has changed here: automations are known by their names, which say block and
    model. One that was switched off is on again.

    Args:
        settings: Where the server may be.
        block: `TYPE/NAME` of a notification block on the server, as `prefect block ls` shows it.
        model_name: Whose news; None for all models.

    Raises:
        UserError: there is no such block, it cannot notify, or no server is addressed.
        ServiceUnavailableError: the server does not answer, or refuses.
    """
    with _connected(settings) as client:
        block_id = _block_id(client, block)
        wanted = automations(block, block_id, model_name)
        for document in wanted:
            _put(client, document)
    return [document["name"] for document in wanted]


def stop_notifying(settings: Settings, block: str, model_name: Slug | None) -> list[str]:
    """Undo `notify` with the same arguments; return the names of what was removed. Raises: see `notify`."""
    removed = []
    with _connected(settings) as client:
        for name in (_name(news, block, model_name) for news in _NEWS):
            for known in client.read_automations_by_name(name):
                client.delete_automation(known.id)
                removed.append(name)
    return removed


def automations(block: str, block_id: UUID, model_name: Slug | None) -> list[dict[str, Any]]:
    """Return the automations as the API takes them."""
    return [
        {
            "name": _name(news, block, model_name),
            "description": f"Sends {news.name} of {model_name or 'all models'} through the block {block}.",
            "enabled": True,
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "match": {"prefect.resource.id": f"stillhouse.model.{model_name or '*'}"},
                "expect": list(news.events),
                "threshold": 1,
                "within": 0,
            },
            "actions": [
                {
                    "type": "send-notification",
                    "block_document_id": str(block_id),
                    "subject": _SUBJECT,
                    "body": news.body,
                }
            ],
        }
        for news in _NEWS
    ]


def _put(client: SyncPrefectClient, document: dict[str, Any]) -> None:
    """Create the automation, or make the one of its name equal to it; remove what a race made double."""
    from prefect.events.schemas.automations import AutomationCore

    wanted = AutomationCore.model_validate(document)
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return
    client.update_automation(known[0].id, wanted)
    for double in known[1:]:
        client.delete_automation(double.id)


def _block_id(client: SyncPrefectClient, block: str) -> UUID:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = block.partition("/")
    if not (kind and name):
        raise UserError(
            f"block {block!r} is not TYPE/NAME, such as slack-webhook/oncall; `prefect block ls` lists them"
        )
    try:
        document = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound as error:
        raise UserError(
            f"the Prefect server has no block {block!r}; save one on its page Blocks, or from Python as "
            "docs/monitoring.md shows, and `prefect block ls` lists it"
        ) from error
    if document.block_schema is None or "notify" not in document.block_schema.capabilities:
        raise UserError(f"block {block!r} cannot send notifications; name one of another type, such as slack-webhook")
    return document.id


@contextmanager
def _connected(settings: Settings) -> Iterator[SyncPrefectClient]:
    address = server_address(settings)
    if address is None:
        raise UserError(
            "no Prefect server is addressed that could send; start one (`stillhouse up`), or set PREFECT_API_URL"
        )
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT_S}) as client:
            yield client
    except (httpx.HTTPError, RuntimeError) as error:  # the client tells of an API that is away by RuntimeError
        raise ServiceUnavailableError(
            f"the Prefect server at {shown(address)} (PREFECT_API_URL) did not take the automations: "
            f"{without_secrets(str(error), address)}"
        ) from error


def _name(news: _News, block: str, model_name: Slug | None) -> str:
    return f"stillhouse: {news.name} of {model_name or 'all models'} to {block}"
