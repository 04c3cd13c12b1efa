"""Have inputs or answers changed since the reference? Four questions, and only changes that matter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.monitoring import WindowCheck
from tasks.contracts.verdict import Verdict
from tasks.decisions.drift import DriftTest, class_test, ks_test, mmd_test, psi_test, worth_of_classes
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.per_class import holm_rejections
from tasks.decisions.window import Rows

_FOUND = 2.0
"""A check passes only when it would have found an effect of so many times its limit."""
_NUM_QUESTIONS = 4


@dataclass(frozen=True)
class _Asked:
    name: str
    test: DriftTest
    limit: float
    num_rows: int
    num_reference: int


def drift_checks(window: Rows, reference: Rows, policy: MonitoringPolicy) -> tuple[WindowCheck, ...]:
    """Compare the window with the reference: answers, predicted classes, inputs as a whole, each input feature.

    The chance of any false failure in a window is `drift_alpha`: the four questions get equal shares of it, and the
    tests that answer one question share by Holm's procedure. A question of its own for the classes keeps its power
    from being spent on twenty tests of input features.

    FAIL: significant, and at or above the limit of its effect, so that a large window does not alarm on nothing.
    PASS: not so, and twice the limit would have been significant even as the smallest p-value of its question.
    Too few rows, or too few to see twice the limit: INCONCLUSIVE.
    """
    if min(len(window), len(reference)) < policy.min_rows:
        return (_unanswered(window, reference, policy),)
    answers = [
        check
        for question in (_answers, _classes)
        for check in _judged(question(window, reference, policy), policy.drift_alpha / _NUM_QUESTIONS)
    ]
    return (*answers, *input_checks(window, reference, policy))


def input_checks(window: Rows, reference: Rows, policy: MonitoringPolicy) -> tuple[WindowCheck, ...]:
    """Compare the inputs alone, as `drift_checks` does."""
    return tuple(
        check
        for question in (_inputs_together, _inputs_apart)
        for check in _judged(question(window, reference, policy), policy.drift_alpha / _NUM_QUESTIONS)
    )


def _answers(window: Rows, reference: Rows, policy: MonitoringPolicy) -> list[_Asked]:
    """Compare confidences, or the outputs of a regression."""
    return _continuous(window.answers(), reference.answers(), policy)


def _classes(window: Rows, reference: Rows, policy: MonitoringPolicy) -> list[_Asked]:
    if window.task == "regression":
        return []
    drawn, known = _class_counts(window, reference)
    test = class_test(drawn, known, policy.drift_alpha / _NUM_QUESTIONS)
    return [_Asked("predicted_classes", test, policy.min_class_effect, len(window), round(float(known.sum())))]


def _inputs_together(window: Rows, reference: Rows, policy: MonitoringPolicy) -> list[_Asked]:
    sketches = _scaled(window, reference, policy.mmd_rows)
    test = mmd_test(*sketches, policy.drift_alpha / _NUM_QUESTIONS)
    return [_Asked("input_sketch_mmd", test, policy.min_mmd, *map(len, sketches))]


def _inputs_apart(window: Rows, reference: Rows, policy: MonitoringPolicy) -> list[_Asked]:
    return _continuous(window.inputs(), reference.inputs(), policy)


def _continuous(
    window: dict[str, NDArray[np.float64]],
    reference: dict[str, NDArray[np.float64]],
    policy: MonitoringPolicy,
) -> list[_Asked]:
    alpha = policy.drift_alpha / (_NUM_QUESTIONS * 2 * len(window))
    asked = []
    for name, values in window.items():
        sizes = len(values), len(reference[name])
        asked.append(_Asked(f"{name}_ks", ks_test(values, reference[name], alpha), policy.min_ks, *sizes))
        asked.append(_Asked(f"{name}_psi", psi_test(values, reference[name], alpha), policy.min_psi, *sizes))
    return asked


def _judged(asked: Sequence[_Asked], alpha: float) -> list[WindowCheck]:
    rejected = holm_rejections([one.test.p_value for one in asked], alpha)
    return [_check(one, significant) for one, significant in zip(asked, rejected, strict=True)]


def _class_counts(window: Rows, reference: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64] | NDArray[np.float64]]:
    """Count the predicted classes; of a reference whose labels are known, as `worth_of_classes` does."""
    drawn, known = window.prediction.astype(np.int64), reference.prediction.astype(np.int64)
    if reference.label is not None and reference.data_classes is not None:
        num_classes = len(reference.data_classes)
        pairs = np.bincount(reference.label * num_classes + known, minlength=num_classes**2)
        worth = worth_of_classes(reference.data_classes, pairs.reshape(num_classes, num_classes))
        return np.bincount(drawn, minlength=num_classes), worth
    num_classes = int(max(drawn.max(), known.max())) + 1
    return np.bincount(drawn, minlength=num_classes), np.bincount(known, minlength=num_classes)


def _scaled(window: Rows, reference: Rows, max_rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw rows for the kernel test, with every coordinate in units of the reference's standard deviation."""
    deviations = reference.input_sketch.std(axis=0)
    scale = np.where(deviations > 0.0, deviations, 1.0)
    return window.input_sketch[:max_rows] / scale, reference.input_sketch[:max_rows] / scale


def _check(asked: _Asked, significant: bool) -> WindowCheck:
    test = asked.test
    verdict = Verdict.PASS if test.detectable <= _FOUND * asked.limit else Verdict.INCONCLUSIVE
    if significant and test.effect >= asked.limit:
        verdict = Verdict.FAIL
    return WindowCheck(
        kind="drift",
        name=asked.name,
        verdict=verdict,
        estimate=test.effect,
        reference=None,
        bound=test.detectable if math.isfinite(test.detectable) else None,
        limit=asked.limit,
        p_value=test.p_value,
        num_rows=asked.num_rows,
        num_reference=asked.num_reference,
        detail=f"effect {test.effect:.3f}, matters from {asked.limit:g}, detectable from {test.detectable:.3f} "
        f"(p {test.p_value:.2g})",
    )


def _unanswered(window: Rows, reference: Rows, policy: MonitoringPolicy) -> WindowCheck:
    return WindowCheck(
        kind="drift",
        name="rows",
        verdict=Verdict.INCONCLUSIVE,
        estimate=None,
        reference=None,
        bound=None,
        limit=None,
        p_value=None,
        num_rows=len(window),
        num_reference=len(reference),
        detail=f"{len(window)} independent rows in the window and {len(reference)} in the reference; "
        f"{policy.min_rows} of each are needed. A longer window has more; so has rows_per_request above "
        f"{policy.rows_per_request} if the rows of one request have nothing to do with each other",
    )
