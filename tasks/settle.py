"""Act on the end of a rollout."""

from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.rolling import settle as settle_rollout
from tasks.stages.rollout_record import RolloutRecord


@effect_task
def settle(record: RolloutRecord, actor: str, now: str) -> None:
    """Promote the challenger, or give its traffic back to the champion."""
    settle_rollout(connect(), record, actor, now)
