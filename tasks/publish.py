"""Publish labelled traffic as a data version."""

from tasks.contracts.publication import PublishedData
from tasks.datasets import Source
from tasks.runtime.stage import effect_task, run_stage
from tasks.stages.publishing import publish_traffic


@effect_task
def publish(model_name: str, source: Source, seed: int, min_rows: int, now: str) -> PublishedData:
    """Add the labelled traffic of a model to its data set, or find a version that its champion has not seen."""
    return run_stage(
        publish_traffic, at_home=True, model_name=model_name, source=source, seed=seed, min_rows=min_rows, now=now
    )
