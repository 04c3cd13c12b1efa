"""Train the baseline."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import StageResult
from tasks.runtime.stage import run_training_stage, stage_task
from tasks.stages.baselines import train_baseline
from tasks.techniques.baseline import TrainSpec


@stage_task(sources=lambda inputs: ["tasks.stages.baselines"])
def train(spec: TrainSpec, data: DatasetRef, seed: int) -> StageResult:
    """Train the network of `spec` from scratch on the train split."""
    return run_training_stage(
        train_baseline,
        label="train",
        planned_epochs=spec.schedule.epochs,
        timeout_s=spec.resources.timeout_s,
        num_threads=spec.num_threads,
        spec=spec,
        data=data,
        seed=seed,
    )
