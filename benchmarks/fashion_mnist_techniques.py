"""Each technique alone on one teacher: `benchmarks/plans`, one seed."""

from benchmarks.plan_runs import data_path, measure_plan
from benchmarks.result import Findings

_SEEDS = (0,)


def measure() -> Findings:
    """Run the plan once."""
    return measure_plan(
        "benchmarks/plans/fashion-mnist-techniques.yaml",
        data_path("fashion-mnist/fashion_mnist.npz"),
        "What does each technique do alone, to the same network: size, accuracy, latency, minutes?",
        _SEEDS,
    )
