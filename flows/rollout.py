"""Rollout: ramp -> observe -> judge -> advance, hold, roll back or promote."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from prefect import flow

from tasks.adapters.traffic import TrafficLog
from tasks.contracts.run import RolloutSummary, RolloutTick
from tasks.decisions.rollout import RolloutPolicy
from tasks.reporting.rollout_news import tell
from tasks.route import route
from tasks.runtime.services import connect
from tasks.settle import settle
from tasks.stages.announcing import announce_ledger
from tasks.stages.rolling import advance, begin_rollout
from tasks.stages.rollout_record import RolloutRecord, latest_record, summarise
from tasks.watch import watch


@flow(name="roll-out", flow_run_name="{model_name} rollout", persist_result=False)
def roll_out(
    model_name: str, policy: RolloutPolicy, tick_seconds: float = 60.0, again: bool = False
) -> tuple[RolloutSummary, tuple[RolloutTick, ...]]:
    """Move the traffic of a model to its challenger step by step, as far as the evidence allows.

    Goes on with a rollout that is running already, wherever its last process ended.

    Args:
        model_name: A model with a champion and an alias `challenger`.
        policy: Steps and limits; a running rollout keeps its own.
        tick_seconds: Pause between two looks at the traffic, seconds.
        again: Try a challenger again that was rolled back against the same champion.

    Raises:
        ModelError: there is no champion or challenger.
    """
    record = begin_rollout(connect(), model_name, policy, _now(), again=again)
    log = _log(record)
    while not record.state.finished:
        record = _tick(log, record, pause_s=tick_seconds)
    settle(record, "roll-out", _now())
    return summarise(connect(), record)


@flow(name="tick-rollout", flow_run_name="{model_name} rollout", persist_result=False)
def tick_rollout(model_name: str) -> RolloutRecord | None:
    """Take one look at the model's running rollout and act on it; the schedule's unit of work.

    Returns None if no rollout was ever begun; a finished one is settled again, which changes nothing.
    """
    record = latest_record(connect(), model_name)
    if record is None:
        return None
    if not record.state.finished:
        record = _tick(_log(record), record, pause_s=0.0)
    if record.state.finished:
        settle(record, "tick-rollout", _now())
    return record


def _tick(log: TrafficLog, record: RolloutRecord, pause_s: float) -> RolloutRecord:
    """Route, look, decide; the next tick's route follows what was decided."""
    record = route(record)
    time.sleep(pause_s)
    moved = advance(connect(), record, watch(log, record), _now())
    tell(record.state, moved.state)
    if moved.state.status == "paused":
        announce_ledger(connect(), moved.state.model_name, _now())
    return moved


def _log(record: RolloutRecord) -> TrafficLog:
    return TrafficLog(
        connect().traffic.folder(record.state.model_name, datetime.fromisoformat(record.state.created_at))
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
