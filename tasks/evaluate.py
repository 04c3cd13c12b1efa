"""Evaluate a deployable model's quality on one split."""

from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.evaluation import Quality
from tasks.contracts.model import StageResult
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.evaluating import evaluate_model


@stage_task(sources=lambda inputs: ["tasks.stages.evaluating"])
def evaluate(deployed: StageResult, baseline: StageResult, data: DatasetRef, split: SplitName) -> Quality:
    """Measure everything about the ONNX model of `deployed` that does not depend on the machine."""
    return run_stage(evaluate_model, model=deployed.model, baseline=baseline.model, data=data, split=split)
