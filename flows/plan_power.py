"""Whether a plan's test split can settle its margin, told before any work is done."""

from __future__ import annotations

from flows.plan import CompressionPlan
from tasks.decisions.gates import too_few_rows


def power_warnings(plan: CompressionPlan, num_test_rows: int | None = None) -> list[str]:
    """Return what the gate will probably be unable to decide.

    Args:
        plan: The plan.
        num_test_rows: Rows of the test split; where they are not known yet, the fewest that the data set's
            expectations allow.
    """
    if getattr(plan.dataset, "task", "classification") == "regression":
        return []  # the bootstrap's rows depend on the errors' spread, which nobody knows before the run
    if num_test_rows is None:
        num_test_rows = round(plan.dataset.expect.min_rows * plan.dataset.split.test)
    message = too_few_rows(num_test_rows, plan.constraints, plan.gate, len(plan.candidates))
    return [message] if message else []
