"""Per-class non-inferiority with Holm's correction: an average can hide a class that was given up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.verdict import Verdict
from tasks.decisions.noninferiority import NonInferiority, PairedTable, judge_difference


@dataclass(frozen=True)
class ClassAnswer:
    """The answer for one class, at the level that Holm's procedure gave it."""

    name: str
    outcome: NonInferiority | None
    """None for a class without rows."""
    verdict: Verdict


def judge_classes(
    labels: NDArray[np.int64],
    baseline_right: NDArray[np.bool_],
    candidate_right: NDArray[np.bool_],
    class_names: Sequence[str],
    margin: float,
    alpha: float,
    power: float,
) -> tuple[ClassAnswer, ...]:
    """Test every class's recall for non-inferiority, with family-wise error rate `alpha` over the classes.

    Holm (1979) for the passes, and again for the failures: hypotheses in order of their p-values are held
    against alpha / K, alpha / (K - 1), ..., and the first that is kept keeps all after it.

    Args:
        labels: [N] class indices.
        baseline_right: [N].
        candidate_right: [N].
        class_names: name of every class index.
        margin: largest tolerated drop of a class's recall, a fraction.
        alpha: family-wise one-sided error rate.
        power: for the number of rows that would settle a class.
    """
    outcomes: list[NonInferiority | None] = []
    for index in range(len(class_names)):
        rows = labels == index
        table = PairedTable.count(baseline_right[rows], candidate_right[rows])
        outcomes.append(judge_difference(table, margin, alpha / len(class_names), power) if table.total else None)
    passed = holm_rejections([1.0 if outcome is None else outcome.p_value for outcome in outcomes], alpha)
    failed = holm_rejections([1.0 if outcome is None else outcome.p_value_worse for outcome in outcomes], alpha)
    return tuple(
        ClassAnswer(name, outcome, _verdict(passes, fails))
        for name, outcome, passes, fails in zip(class_names, outcomes, passed, failed, strict=True)
    )


def holm_rejections(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Tell which hypotheses Holm's step-down procedure rejects at family-wise level `alpha`."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _verdict(passes: bool, fails: bool) -> Verdict:
    if passes:
        return Verdict.PASS
    return Verdict.FAIL if fails else Verdict.INCONCLUSIVE
