"""Export a torch model to ONNX."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import StageResult
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.exporting import export_model


@stage_task(sources=lambda inputs: ["tasks.stages.exporting", *recipe_modules(inputs["previous"].model)])
def export(previous: StageResult, data: DatasetRef) -> StageResult:
    """Export the torch model of the `previous` stage to one ONNX file that agrees with it."""
    return run_stage(export_model, model=previous.model, data=data)
