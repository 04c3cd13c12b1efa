"""Train the baseline."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import ModelRef, StageResult
from tasks.runtime.stage import run_training_stage, stage_task
from tasks.stages.baselines import train_baseline
from tasks.techniques.baseline import TrainSpec
from tasks.techniques.forms import largest_batch


@stage_task(sources=lambda inputs: ["tasks.stages.baselines"])
def train(spec: TrainSpec, data: DatasetRef, seed: int, start: ModelRef | None = None) -> StageResult:
    """Train the network of `spec` on the train split, from drawn weights or from those of `start`."""
    return run_training_stage(
        train_baseline,
        label="train",
        planned_epochs=spec.schedule_in_use.epochs,
        batch_size=largest_batch(spec),
        resources=spec.resources,
        num_threads=spec.num_threads,
        spec=spec,
        data=data,
        seed=seed,
        start=start,
    )
