"""The work around a retraining: within its budget, and recorded from its start to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from tasks.contracts.errors import (
    DocumentConflictError,
    ModelError,
    RetrainingRefusedError,
    UserError,
)
from tasks.contracts.model import ModelRef
from tasks.contracts.retraining import RetrainingEntry, RetrainingRecord
from tasks.contracts.value import Digest, Slug
from tasks.decisions.retraining import RetrainingPolicy, why_not_now
from tasks.runtime.services import Services
from tasks.stages.rollout_record import latest_record


def unfinished(services: Services, model_name: Slug, plan: str, champion: Digest) -> RetrainingEntry | None:
    """Return the model's last retraining if its process died before there was an outcome, and it can be gone on with.

    One by another plan cannot, nor one after which another champion came: its own, or one by hand.
    """
    entries = read_record(services, model_name).entries
    if not entries or entries[-1].outcome is not None:
        return None
    if (entries[-1].plan, entries[-1].champion) == (plan, champion):
        return entries[-1]
    came = "another champion came" if entries[-1].champion != champion else "another plan was asked for"
    record_entry(services, model_name, entries[-1].model_copy(update={"outcome": f"its process died, and {came}"}))
    return None


@contextmanager
def concluded(services: Services, model_name: Slug, entry: RetrainingEntry) -> Iterator[Callable[[str], None]]:
    """Record `entry` as begun, and the outcome that the block gives; what infrastructure cuts off stays unfinished."""

    def conclude(outcome: str) -> None:
        record_entry(services, model_name, entry.model_copy(update={"outcome": outcome}))

    record_entry(services, model_name, entry)
    try:
        yield conclude
    except UserError as error:
        conclude(f"failed: {error}")
        raise


def require_turn(services: Services, model_name: Slug, policy: RetrainingPolicy, now: datetime) -> None:
    """Check that a new retraining may start.

    Raises:
        RetrainingRefusedError: the pause or the budget forbids it, or a rollout of the model is running.
    """
    rolling = latest_record(services, model_name)
    if rolling is not None and not rolling.state.finished:
        raise RetrainingRefusedError(
            f"version {rolling.state.challenger.version} of {model_name} is being rolled out, and its "
            f"successor would have to wait; retrain when that has ended, or end it with `stillhouse rollout "
            f"abort {model_name}`"
        )
    starts = [datetime.fromisoformat(entry.started_at) for entry in read_record(services, model_name).entries]
    if refusal := why_not_now(policy, starts, now):
        raise RetrainingRefusedError(f"{model_name} is not trained anew: {refusal}")


def current_champion(services: Services, model_name: Slug) -> ModelRef:
    """Return the ONNX model that serves.

    Raises:
        ModelError: there is none.
    """
    champion = services.ledger.champion(model_name)
    if champion is None:
        raise ModelError(f"model {model_name} has no champion to do better than; `stillhouse run PLAN` makes the first")
    size_bytes = len(services.artifacts.get(champion.candidate))
    return ModelRef(digest=champion.candidate, format="onnx", size_bytes=size_bytes)


def read_record(services: Services, model_name: Slug) -> RetrainingRecord:
    """Return all retrainings of the model."""
    found = services.documents.latest(_name(model_name))
    return RetrainingRecord() if found is None else RetrainingRecord.model_validate_json(found.data)


def record_entry(services: Services, model_name: Slug, entry: RetrainingEntry) -> None:
    """Append an entry, or replace the one with the same start by it."""
    while True:
        found = services.documents.latest(_name(model_name))
        record = RetrainingRecord() if found is None else RetrainingRecord.model_validate_json(found.data)
        others = tuple(one for one in record.entries if one.started_at != entry.started_at)
        data = RetrainingRecord(entries=(*others, entry)).canonical_json()
        try:
            services.documents.append(_name(model_name), data, found.version if found else 0)
        except DocumentConflictError:
            continue  # a writer without the lock was between the read and the write
        return


def _name(model_name: Slug) -> str:
    return f"retrainings/{model_name}"
