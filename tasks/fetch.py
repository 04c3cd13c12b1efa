"""Fetch, validate and split the data."""

from tasks.contracts.data import DatasetRef
from tasks.datasets import Source
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.fetching import prepare_dataset


@stage_task(sources=lambda inputs: ["tasks.stages.fetching", type(inputs["source"]).__module__])
def fetch(source: Source, revision: str, seed: int) -> DatasetRef:
    """Load version `revision` of the data set, hold it against its expectations, and split it."""
    return run_stage(prepare_dataset, at_home=True, source=source, revision=revision, seed=seed)
