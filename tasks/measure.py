"""Time all models of a run, interleaved, on one machine."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Machine, TimingTable
from tasks.contracts.model import ModelRef
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.timing import time_models


@stage_task(sources=lambda inputs: ["tasks.stages.timing", *recipe_modules(*inputs["models"])])
def measure(models: tuple[ModelRef, ...], data: DatasetRef, machine: Machine, seed: int) -> TimingTable:
    """Measure latency, throughput, memory and cold start of every model, while no other stage of the run works."""
    return run_stage(time_models, exclusive=True, models=models, data=data, machine=machine, seed=seed)
