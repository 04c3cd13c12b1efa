"""Evaluate a deployable model on corrupted rows of one split."""

from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.evaluation import Robustness
from tasks.contracts.model import StageResult
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.stressing import evaluate_corrupted


@stage_task(sources=lambda inputs: ["tasks.stages.stressing"])
def stress(deployed: StageResult, data: DatasetRef, split: SplitName) -> Robustness:
    """Answer the split's rows under every corruption that suits them."""
    return run_stage(evaluate_corrupted, model=deployed.model, data=data, split=split)
