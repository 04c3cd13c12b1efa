"""The plan `plans/clinc150.yaml` as a benchmark."""

from benchmarks.plan_runs import data_path, measure_plan
from benchmarks.result import Findings

_SEEDS = (0, 1, 2)


def measure() -> Findings:
    """Run the plan for three seeds of its candidates."""
    return measure_plan(
        "plans/clinc150.yaml",
        data_path("clinc150/data_full.json"),
        "How small and fast does a transformer for the 150 intents of CLINC150 get, and what does it cost in accuracy?",
        _SEEDS,
    )
