"""What a teacher gives to a student, beside the same student with labels alone: `benchmarks/plans`, five seeds."""

from benchmarks.plan_runs import data_path, measure_plan
from benchmarks.result import Findings

_SEEDS = (0, 1, 2, 3, 4)


def measure() -> Findings:
    """Run the plan for five seeds of its candidates."""
    return measure_plan(
        "benchmarks/plans/fashion-mnist-distillation.yaml",
        data_path("fashion-mnist/fashion_mnist.npz"),
        "Does a student learn more from a teacher than from labels alone, in the same epochs?",
        _SEEDS,
        gain=("response", "labels-alone"),
    )
