"""Score a model on the half of a split that a search goes by, and on the half that it never sees."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Quality
from tasks.contracts.search import HalfScores
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.scoring import score_halves


@stage_task(sources=lambda inputs: ["tasks.stages.scoring"])
def score(quality: Quality, data: DatasetRef, seed: int) -> HalfScores:
    """Return the primary metric of the evaluated model on each half of the split that it was evaluated on."""
    return run_stage(score_halves, predictions=quality.predictions, split=quality.split, data=data, seed=seed)
