"""The checks that block unless the plan says otherwise: evidence and a limit in, a `Check` out."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.data import Task
from tasks.contracts.evaluation import ServingTrial
from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.gate_policy import Certainty, Constraints
from tasks.decisions.latency import judge_latency
from tasks.decisions.macro_f1 import judge_macro_f1_drop
from tasks.decisions.noninferiority import NonInferiority, PairedTable, judge_difference, right_rows
from tasks.decisions.paired_loss import LossIncrease, judge_loss_increase

_SAME_ANSWER = 1e-3
"""Largest difference of two answers, as a share of the range of outputs, that another order of sums explains."""


def accuracy_check(table: PairedTable, margin: float, sure: Certainty) -> Check:
    """Accuracy is at most `margin` below the baseline's."""
    if table.total == 0:
        return no_data("accuracy", margin)
    outcome = judge_difference(table, margin, sure.alpha, sure.power)
    return Check(
        name="accuracy",
        verdict=outcome.verdict,
        estimate=outcome.estimate,
        bound=deciding_bound(outcome),
        margin=margin,
        num_rows=outcome.num_rows,
        num_rows_needed=outcome.num_rows_needed,
        detail=(
            f"{table.only_baseline} rows lost, {table.only_candidate} won; the change lies above {outcome.lower:+.4f} "
            f"and below {outcome.upper:+.4f}, each with {1 - sure.alpha:.2%} confidence; allowed -{margin:g}"
        ),
    )


def champion_check(
    task: Task,
    candidate_outputs: NDArray[np.float32],
    champion_outputs: NDArray[np.float32],
    labels: NDArray[np.generic],
    limits: Constraints,
    sure: Certainty,
) -> Check:
    """Accuracy, or RMSE, is as good as that of the model that serves, but for the margin against the baseline."""
    if task == "classification":
        classes = labels.astype(np.int64)
        table = PairedTable.count(right_rows(champion_outputs, classes), right_rows(candidate_outputs, classes))
        check = accuracy_check(table, limits.max_accuracy_drop, sure)
    else:
        targets = labels.astype(np.float64)
        check = error_check("rmse", targets, candidate_outputs, champion_outputs, limits.max_rmse_increase, sure)
    measure = "accuracy" if task == "classification" else "RMSE"
    return check.model_copy(update={"name": "champion", "detail": f"{measure} against the champion's; {check.detail}"})


def macro_f1_check(
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    margin: float,
    sure: Certainty,
) -> Check:
    """Macro F1 is at most `margin` below the baseline's; a row with an output that is not finite has no answer."""
    if len(labels) == 0:
        return no_data("macro_f1", margin)
    outcome = judge_macro_f1_drop(
        labels,
        _answers(candidate_outputs),
        _answers(baseline_outputs),
        num_classes,
        margin,
        sure.alpha,
        power=sure.power,
        num_resamples=sure.num_resamples,
    )
    return increase_check("macro_f1", outcome, margin, "change of the mean F1 over all classes", drop=True)


def error_check(
    name: Literal["rmse", "mae"],
    targets: NDArray[np.float64],
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    margin: float,
    sure: Certainty,
) -> Check:
    """RMSE or MAE is at most the fraction `margin` above the baseline's."""
    num = len(targets)
    if num == 0:
        return no_data(name, margin)
    candidate_error, baseline_error = (
        np.abs(outputs.reshape(num).astype(np.float64) - targets) for outputs in (candidate_outputs, baseline_outputs)
    )
    for who, error in (("candidate", candidate_error), ("baseline", baseline_error)):
        if not np.isfinite(error).all():
            verdict = Verdict.FAIL if who == "candidate" else Verdict.INCONCLUSIVE
            detail = f"{int((~np.isfinite(error)).sum())} of the {who}'s outputs are not finite"
            return Check(
                name=name, verdict=verdict, estimate=None, bound=None, margin=margin, num_rows=num, detail=detail
            )
    power = 2 if name == "rmse" else 1
    outcome = judge_loss_increase(
        candidate_error**power,
        baseline_error**power,
        margin,
        sure.alpha,
        statistic="root_mean" if name == "rmse" else "mean",
        relative=True,
        power=sure.power,
        num_resamples=sure.num_resamples,
    )
    return increase_check(name, outcome, margin, f"increase of the {name.upper()} relative to the baseline's")


def latency_check(
    candidate_ms: NDArray[np.float64],
    baseline_ms: NDArray[np.float64],
    quantile: float,
    max_ratio: float,
    block_length: int,
    sure: Certainty,
) -> Check:
    """A latency quantile at batch 1 is at most `max_ratio` times the baseline's."""
    name = f"latency_p{100 * quantile:g}"
    if len(candidate_ms) == 0 or len(baseline_ms) == 0:
        return no_data(name, max_ratio)
    outcome = judge_latency(
        candidate_ms,
        baseline_ms,
        quantile,
        max_ratio,
        sure.alpha,
        power=sure.power,
        num_resamples=sure.num_resamples,
        block_length=block_length,
    )
    return Check(
        name=name,
        verdict=outcome.verdict,
        estimate=outcome.estimate,
        bound=outcome.lower if outcome.verdict is Verdict.FAIL else outcome.upper,
        margin=max_ratio,
        num_rows=outcome.num_samples,
        num_rows_needed=outcome.num_samples_needed,
        detail="ratio to the baseline's at batch 1, interleaved samples",
    )


_UNITS = {"size": "bytes", "memory": "bytes", "cold_start": "ms", "int8_coverage": "of its convolutions and products"}


def limit_check(
    name: Literal["size", "memory", "cold_start", "int8_coverage"],
    value: float | None,
    *,
    at_most: float = math.inf,
    at_least: float = -math.inf,
    reference: float | None = None,
) -> Check:
    """Exact: a measured value keeps its one limit; `reference` is the baseline's, told beside it."""
    limit = at_least if at_most == math.inf else at_most
    if value is None:
        return Check(
            name=name, verdict=Verdict.INCONCLUSIVE, estimate=None, bound=None, margin=limit, num_rows=0,
            detail="not measured",
        )  # fmt: skip
    compared = f", {value / reference:.2%} of the baseline's {reference:,}" if reference else ""
    allowed = f"allowed {limit:,}" if at_least == -math.inf else f"asked {limit:,} or more"
    return Check(
        name=name,
        verdict=Verdict.PASS if at_least <= value <= at_most else Verdict.FAIL,
        estimate=value,
        bound=None,
        margin=limit,
        num_rows=1,
        detail=f"{value:,} {_UNITS[name]}{compared}; {allowed}",
    )


def servability_check(trial: ServingTrial | None) -> Check:
    """Exact: the gateway of production answers every request as onnxruntime does."""
    if trial is None or not (trial.refusal or trial.num_requests):
        return no_data("servability", None, "not tried")
    difference, num_failed = trial.max_relative_difference, sum(trial.failures.values())
    if trial.refusal:
        detail = f"the gateway does not serve it: {trial.refusal}"
    elif num_failed:
        reason = max(trial.failures, key=lambda name: trial.failures[name])
        detail = f"{num_failed} of {trial.num_requests} requests were not answered: {reason}"
    else:
        detail = f"{trial.num_requests} requests answered, at most {difference:.3%} of the outputs' range off"
    good = not trial.refusal and not num_failed and difference is not None and difference <= _SAME_ANSWER
    return Check(
        name="servability",
        verdict=Verdict.PASS if good else Verdict.FAIL,
        estimate=difference,
        bound=None,
        margin=_SAME_ANSWER,
        num_rows=trial.num_requests,
        detail=detail,
    )


def increase_check(name: str, outcome: LossIncrease, margin: float, detail: str, *, drop: bool = False) -> Check:
    """Write an increase that should stay below its margin as a check; `drop` writes it as a change, below 0."""
    bound = _finite(outcome.lower if outcome.verdict is Verdict.FAIL else outcome.upper)
    sign = -1.0 if drop else 1.0
    return Check(
        name=name,
        verdict=outcome.verdict,
        estimate=None if outcome.estimate is None else sign * outcome.estimate,
        bound=None if bound is None else sign * bound,
        margin=margin,
        num_rows=outcome.num_rows,
        num_rows_needed=outcome.num_rows_needed,
        detail=detail,
    )


def deciding_bound(outcome: NonInferiority) -> float:
    """Return the bound that decided, or the one that a PASS would need."""
    return outcome.upper if outcome.verdict is Verdict.FAIL else outcome.lower


def no_data(name: str, margin: float | None, detail: str = "no data") -> Check:
    """Return the check of evidence that does not exist: INCONCLUSIVE."""
    return Check(
        name=name,
        verdict=Verdict.INCONCLUSIVE,
        estimate=None,
        bound=None,
        margin=margin,
        num_rows=0,
        detail=detail,
    )


def _answers(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return [N] the class of the largest output, and K, none, for a row with an output that is not finite."""
    finite = np.isfinite(outputs).all(axis=1)
    answers: NDArray[np.int64] = np.where(finite, outputs.argmax(axis=1), outputs.shape[1])
    return answers


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
