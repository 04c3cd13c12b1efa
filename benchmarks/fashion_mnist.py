"""The plan `plans/fashion-mnist.yaml` as a benchmark."""

from benchmarks.plan_runs import measure_plan
from benchmarks.result import Findings

_SEEDS = (0, 1, 2)


def measure() -> Findings:
    """Run the plan for three seeds of its candidates."""
    return measure_plan(
        "plans/fashion-mnist.yaml",
        "fashion-mnist/fashion_mnist.npz",
        "How small and fast does a residual network for Fashion-MNIST get, and what does it cost in accuracy?",
        _SEEDS,
    )
