"""The plan `plans/california-housing.yaml` as a benchmark."""

from benchmarks.plan_runs import data_path, measure_plan
from benchmarks.result import Findings

_SEEDS = (0, 1, 2)


def measure() -> Findings:
    """Run the plan for three seeds of its candidates."""
    return measure_plan(
        "plans/california-housing.yaml",
        data_path("california-housing/housing.csv"),
        "How small does a network for the house prices of California get, and what does it cost in error?",
        _SEEDS,
    )
