"""The work of telling the event server what the ledger says happened.

The ledger leads. What is to be announced is read from it and put into an outbox document by compare-and-set, then
sent, then taken out. A server that is away delays an event and never fails what it is about; the next call sends it,
and monitoring calls every quarter of an hour. Sending twice is harmless, since an event's id is made from what it is
about. What could not be sent for a day is given up: acting on it then would do harm.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from tasks.contracts.errors import DocumentConflictError, ServiceUnavailableError
from tasks.contracts.monitoring import (
    DATA_PUBLISHED,
    MODEL_PROMOTED,
    ROLLOUT_ABORTED,
    ROLLOUT_PAUSED,
    Announcement,
    Outbox,
)
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.alarms import announcement_id
from tasks.runtime.bookkeeping import Events
from tasks.runtime.services import Services
from tasks.stages.rollout_record import RolloutRecord, latest_record

logger = logging.getLogger(__name__)

GIVEN_UP_AFTER = timedelta(days=1)


def announce_ledger(services: Services, model_name: str, now: str) -> None:
    """Announce the model's promotions, rollouts that ended without one, and pauses for a person, each once."""
    history = services.ledger.history(model_name)
    record = latest_record(services, model_name)

    def read(outbox: Outbox) -> Outbox:
        new = [entry for entry in history if entry.sequence > outbox.ledger_sequence]
        unsent = [_promotion(entry) for entry in new]
        ended = record is not None and record.state.status in ("rolled_back", "aborted")
        if record is not None and ended and record.state.rollout_id != outbox.rollout_id:
            unsent.append(_abortion(record))
        pause = _pause(record) if record is not None and record.state.status == "paused" else None
        if pause is not None and pause.event_id != outbox.paused:
            unsent.append(pause)
        return outbox.model_copy(
            update={
                "ledger_sequence": history[-1].sequence if history else 0,
                "rollout_id": record.state.rollout_id if record is not None and ended else outbox.rollout_id,
                "paused": outbox.paused if pause is None else pause.event_id,
                "unsent": (*outbox.unsent, *unsent),
            }
        )

    _announce(services, f"announcements/models/{model_name}", read, now)


def announce_data(services: Services, revision: str, remote: str, now: str) -> None:
    """Announce that a version of the data can be fetched from the remote."""

    def read(outbox: Outbox) -> Outbox:
        if outbox.data_revision == revision:
            return outbox
        event = Announcement(
            event_id=announcement_id("data", revision, now),
            event=DATA_PUBLISHED,
            subject="data",
            occurred=now,
            payload={"revision": revision, "remote": remote, "reason": f"data version {revision} was published"},
        )
        return outbox.model_copy(update={"data_revision": revision, "unsent": (*outbox.unsent, event)})

    _announce(services, "announcements/data", read, now)


def send_unsent(events: Events, unsent: Sequence[Announcement], now: str) -> tuple[Announcement, ...]:
    """Send what is not too old, and return what has to be tried again."""
    oldest = datetime.fromisoformat(now) - GIVEN_UP_AFTER
    fresh = tuple(one for one in unsent if datetime.fromisoformat(one.occurred) >= oldest)
    for old in unsent:
        if old not in fresh:
            logger.warning("event %s of %s is given up: it could not be sent for a day", old.event, old.occurred)
    if not fresh:
        return ()
    try:
        return () if events.send(fresh) else fresh
    except ServiceUnavailableError as error:
        logger.warning("%d events wait: %s", len(fresh), error)
        return fresh


def _announce(services: Services, name: str, read: Callable[[Outbox], Outbox], now: str) -> None:
    outbox = _changed(services, name, read)
    if not outbox.unsent:
        return
    waiting = {one.event_id for one in send_unsent(services.events, outbox.unsent, now)}
    done = {one.event_id for one in outbox.unsent} - waiting
    if done:
        _changed(services, name, lambda newest: _without(newest, done))


def _changed(services: Services, name: str, change: Callable[[Outbox], Outbox]) -> Outbox:
    """Make the outbox what `change` makes of it, however many writers there are."""
    while True:
        latest = services.documents.latest(name)
        outbox = Outbox.model_validate_json(latest.data) if latest else Outbox()
        moved = change(outbox)
        if moved == outbox:
            return outbox
        try:
            services.documents.append(name, moved.canonical_json(), latest.version if latest else 0)
        except DocumentConflictError:
            continue  # another process was between the read and the write
        return moved


def _without(outbox: Outbox, done: set[str]) -> Outbox:
    return outbox.model_copy(update={"unsent": tuple(one for one in outbox.unsent if one.event_id not in done)})


def _promotion(entry: LedgerEntry) -> Announcement:
    return Announcement(
        event_id=announcement_id("promoted", entry.model_name, str(entry.sequence), entry.candidate),
        event=MODEL_PROMOTED,
        subject=f"model.{entry.model_name}",
        occurred=entry.created_at,
        payload={
            "model_name": entry.model_name,
            "version": entry.version,
            "model_digest": entry.candidate,
            "action": entry.action,
            "actor": entry.actor,
            "reason": entry.reason,
        },
    )


def _abortion(record: RolloutRecord) -> Announcement:
    state = record.state
    assert state.latest is not None, "a rollout ends by a decision"
    return Announcement(
        event_id=announcement_id("aborted", state.model_name, state.rollout_id),
        event=ROLLOUT_ABORTED,
        subject=f"model.{state.model_name}",
        occurred=state.latest.at,
        payload={
            "model_name": state.model_name,
            "version": state.challenger.version,
            "model_digest": state.challenger.digest,
            "status": state.status,
            "since": state.created_at,
            "reason": state.latest.reason,
        },
    )


def _pause(record: RolloutRecord) -> Announcement:
    state = record.state
    began = next(decision for decision in reversed(state.history) if decision.verdict == "hold")
    return Announcement(
        event_id=announcement_id("paused", state.model_name, state.rollout_id, str(began.tick)),
        event=ROLLOUT_PAUSED,
        subject=f"model.{state.model_name}",
        occurred=began.at,
        payload={
            "model_name": state.model_name,
            "version": state.challenger.version,
            "model_digest": state.challenger.digest,
            "rollout_id": state.rollout_id,
            "weight": state.weight,
            "reason": began.reason,
        },
    )
