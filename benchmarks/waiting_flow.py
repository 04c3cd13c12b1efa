"""A flow whose candidates are stages that wait: through Prefect, the stage cache, its locks and the placement."""

from prefect import flow

from benchmarks.ray_site import SLOTS
from benchmarks.waiting import Waited, wait
from tasks.contracts.resources import Resources
from tasks.runtime.stage import run_stage, stage_task


@stage_task(sources=lambda inputs: ["benchmarks.waiting"])
def candidate(series: int, number: int, seconds: float, num_workers: int) -> Waited:
    """Wait on one of `num_workers` workers; `series` keeps the caches of two measurements apart."""
    resources = Resources(custom={"slot": SLOTS / num_workers})
    return run_stage(wait, resources=resources, number=number, seconds=seconds)


@flow(persist_result=False)
def run_candidates(series: int, num_stages: int, seconds: float, num_workers: int) -> list[Waited]:
    """Submit all stages at once and wait for them."""
    pending = [candidate.submit(series, number, seconds, num_workers) for number in range(num_stages)]
    return [one.result() for one in pending]
