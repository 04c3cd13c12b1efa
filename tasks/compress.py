"""Compress a model by one technique."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import StageResult
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.stage import run_training_stage, stage_task
from tasks.stages.applying import apply_technique
from tasks.techniques import Technique
from tasks.techniques.forms import largest_batch


@stage_task(
    sources=lambda inputs: [
        type(inputs["technique"]).__module__,
        "tasks.stages.applying",
        *recipe_modules(inputs["previous"].model, inputs["baseline"].model),
    ],
    ignore=("candidate",),
    run_name="{candidate}: {technique.kind}",
)
def compress(
    candidate: str, technique: Technique, previous: StageResult, baseline: StageResult, data: DatasetRef, seed: int
) -> StageResult:
    """Apply `technique` to the model of the `previous` stage; `baseline` is the teacher."""
    return run_training_stage(
        apply_technique,
        label=f"{candidate}: {technique.kind}",
        planned_epochs=technique.planned_epochs,
        batch_size=largest_batch(technique),
        resources=technique.resources,
        num_threads=technique.num_threads,
        technique=technique,
        model=previous.model,
        baseline=baseline.model,
        data=data,
        seed=seed,
    )
