"""Look at the traffic of a rollout."""

from tasks.adapters.traffic import TrafficLog
from tasks.decisions.experiment import Observation
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.rolling import observe
from tasks.stages.rollout_record import RolloutRecord


@effect_task
def watch(log: TrafficLog, record: RolloutRecord) -> Observation:
    """Count what both arms have answered since the rollout began."""
    return observe(connect(), log, record)
