"""Decide whether a chain is worth going on with."""

from tasks.contracts.evaluation import Quality
from tasks.decisions.early_stop import EarlyStop, require_within_budget
from tasks.runtime.stage import effect_task


@effect_task
def screen(stage: str, quality: Quality, baseline: Quality, budget: EarlyStop) -> None:
    """Fail if the stage's model lost more against the baseline than `budget` allows."""
    require_within_budget(stage, quality, baseline, budget)
