"""Time all models of a run, interleaved, on one machine."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Machine, TimingTable
from tasks.contracts.model import ModelRef
from tasks.contracts.value import Slug
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.timing import time_models


@stage_task(
    sources=lambda inputs: ["tasks.stages.timing", *recipe_modules(*inputs["models"])],
    ignore=("target",),  # `machine` says more
)
def measure(models: tuple[ModelRef, ...], data: DatasetRef, machine: Machine, seed: int, target: Slug) -> TimingTable:
    """Measure latency, throughput, memory and cold start of every model on a `target`, while nothing else works there.

    `machine` is what `identify` found the target to be.
    """
    return run_stage(time_models, target=target, models=models, data=data, machine=machine, seed=seed)
