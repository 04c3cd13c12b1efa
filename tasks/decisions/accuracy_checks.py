"""Is the model as right as on its validation split? By labels where they came, else by its own confidences."""

import numpy as np

from tasks.contracts.monitoring import WindowCheck
from tasks.contracts.verdict import Verdict
from tasks.decisions.estimated_accuracy import MIN_EITHER, expected_accuracy
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.noninferiority import three_valued
from tasks.decisions.window import Labels, Rows
from tasks.decisions.window_rates import difference_bounds


def accuracy_checks(rows: Rows, labels: Labels, reference: Rows, policy: MonitoringPolicy) -> tuple[WindowCheck, ...]:
    """Judge the labels that arrived; only if they settle nothing, the estimate without labels too.

    Labels beat the estimate, which rests on an assumption. For the same reason the estimate can fail but never pass.
    """
    labelled = _labelled_check(labels, reference, policy)
    if labelled.verdict is not Verdict.INCONCLUSIVE or rows.task == "regression":
        return (labelled,)
    return labelled, _estimated_check(rows, reference, policy)


def _labelled_check(labels: Labels, reference: Rows, policy: MonitoringPolicy) -> WindowCheck:
    """Bound the accuracy on the window's labels minus the reference's: each label counts in one window only."""
    num, known = len(labels.right), 0 if reference.right is None else len(reference.right)
    right = int(labels.right.sum())
    known_right = 0 if reference.right is None else int(reference.right.sum())
    lower, upper = difference_bounds(right, num, known_right, known, policy.alpha)
    enough = min(num, known) >= policy.min_rows
    verdict = three_valued(passed=lower > -policy.max_accuracy_drop, failed=upper < -policy.max_accuracy_drop)
    share = labels.labelled / labels.answered if labels.answered else 0.0
    return WindowCheck(
        kind="accuracy",
        name="labelled_accuracy",
        verdict=verdict if enough else Verdict.INCONCLUSIVE,
        estimate=right / num if num else None,
        reference=known_right / known if known else None,
        bound=upper if verdict is Verdict.FAIL else lower,
        limit=-policy.max_accuracy_drop,
        p_value=None,
        num_rows=num,
        num_reference=known,
        detail=f"{num} labels arrived ({policy.min_rows} needed), {share:.0%} of the rows of the last "
        f"{policy.label_hours:g} h have one; difference above {lower:+.3f} and below {upper:+.3f}, "
        f"tolerated -{policy.max_accuracy_drop:g}",
    )


def _estimated_check(rows: Rows, reference: Rows, policy: MonitoringPolicy) -> WindowCheck:
    """Estimate the accuracy from confidences: FAIL or INCONCLUSIVE."""
    right = reference.right
    enough = right is not None and min(int(right.sum()), int((~right).sum())) >= MIN_EITHER
    confidence = rows.confidence[np.isfinite(rows.confidence)]
    if right is None or not enough or len(confidence) < policy.min_rows:
        estimate, difference, upper = None, None, None
        detail = f"needs {policy.min_rows} rows, and {MIN_EITHER} right and {MIN_EITHER} wrong ones in the reference"
    else:
        found = expected_accuracy(confidence, reference.confidence, right, policy.alpha)
        estimate, difference, upper = found.estimate, found.difference, found.upper
        detail = (
            f"difference {difference:+.3f}, below {upper:+.3f}, tolerated -{policy.max_accuracy_drop:g}, if confidence "
            "still means what it meant in the reference"
        )
    return WindowCheck(
        kind="accuracy",
        name="estimated_accuracy",
        verdict=Verdict.FAIL if upper is not None and upper < -policy.max_accuracy_drop else Verdict.INCONCLUSIVE,
        estimate=estimate,
        reference=float(right.mean()) if right is not None else None,
        bound=upper,
        limit=-policy.max_accuracy_drop,
        p_value=None,
        num_rows=len(confidence),
        num_reference=0 if right is None else len(right),
        detail=detail,
    )
