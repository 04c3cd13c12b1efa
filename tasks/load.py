"""Load a trained baseline."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import ModelRef, StageResult
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.baselines import load_baseline


@stage_task(sources=lambda inputs: ["tasks.stages.baselines", *recipe_modules(inputs["model"])])
def load(model: ModelRef, data: DatasetRef) -> StageResult:
    """Check that a model from outside rebuilds and fits the data, and take it as the baseline."""
    return run_stage(load_baseline, model=model, data=data)
