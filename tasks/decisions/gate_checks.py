"""The checks that block a candidate, one function each: evidence and a limit in, a `Check` out."""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.latency import judge_latency
from tasks.decisions.noninferiority import (
    NonInferiority,
    PairedTable,
    judge_difference,
)
from tasks.decisions.paired_loss import judge_loss_increase

_DRAWS_BEYOND_BOUND = 20
"""Fewest bootstrap draws beyond a bound: a percentile that rests on fewer is mostly chance."""


def accuracy_check(table: PairedTable, margin: float, alpha: float, power: float) -> Check:
    """Blocking: accuracy is at most `margin` below the baseline's."""
    if table.total == 0:
        return no_data("accuracy", margin)
    outcome = judge_difference(table, margin, alpha, power)
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
            f"and below {outcome.upper:+.4f}, each with {1 - alpha:.2%} confidence; allowed -{margin:g}"
        ),
    )


def rmse_check(
    targets: NDArray[np.float64],
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    margin: float,
    alpha: float,
    power: float,
    num_resamples: int,
) -> Check:
    """Blocking: RMSE is at most the fraction `margin` above the baseline's."""
    num = len(targets)
    if num == 0:
        return no_data("rmse", margin)
    candidate_loss, baseline_loss = (
        (outputs.reshape(num).astype(np.float64) - targets) ** 2 for outputs in (candidate_outputs, baseline_outputs)
    )
    for name, loss in (("candidate", candidate_loss), ("baseline", baseline_loss)):
        if not np.isfinite(loss).all():
            verdict = Verdict.FAIL if name == "candidate" else Verdict.INCONCLUSIVE
            detail = f"{int((~np.isfinite(loss)).sum())} of the {name}'s outputs are not finite"
            return Check(
                name="rmse", verdict=verdict, estimate=None, bound=None, margin=margin, num_rows=num, detail=detail
            )
    outcome = judge_loss_increase(
        candidate_loss,
        baseline_loss,
        margin,
        alpha,
        statistic="root_mean",
        relative=True,
        power=power,
        num_resamples=enough_resamples(num_resamples, alpha),
    )
    return Check(
        name="rmse",
        verdict=outcome.verdict,
        estimate=outcome.estimate,
        bound=_finite(outcome.lower if outcome.verdict is Verdict.FAIL else outcome.upper),
        margin=margin,
        num_rows=num,
        num_rows_needed=outcome.num_rows_needed,
        detail="increase of the RMSE relative to the baseline's",
    )


def latency_check(
    candidate_ms: NDArray[np.float64],
    baseline_ms: NDArray[np.float64],
    quantile: float,
    max_ratio: float,
    alpha: float,
    power: float,
    num_resamples: int,
    block_length: int,
    *,
    blocking: bool,
) -> Check:
    """A latency quantile at batch 1 is at most `max_ratio` times the baseline's."""
    name = f"latency_p{100 * quantile:g}"
    if len(candidate_ms) == 0 or len(baseline_ms) == 0:
        return no_data(name, max_ratio, blocking=blocking)
    outcome = judge_latency(
        candidate_ms,
        baseline_ms,
        quantile,
        max_ratio,
        alpha,
        power=power,
        num_resamples=enough_resamples(num_resamples, alpha),
        block_length=block_length,
    )
    return Check(
        name=name,
        verdict=outcome.verdict,
        estimate=outcome.estimate,
        bound=outcome.lower if outcome.verdict is Verdict.FAIL else outcome.upper,
        margin=max_ratio,
        num_rows=outcome.num_samples,
        blocking=blocking,
        num_rows_needed=outcome.num_samples_needed,
        detail="ratio to the baseline's at batch 1, interleaved samples",
    )


def limit_check(name: str, value: int | None, limit: int, reference: int | None) -> Check:
    """Blocking and exact: `value` bytes are at most `limit`."""
    if value is None:
        return Check(
            name=name, verdict=Verdict.INCONCLUSIVE, estimate=None, bound=None, margin=limit, num_rows=0,
            detail="not measured",
        )  # fmt: skip
    compared = f", {value / reference:.2%} of the baseline's {reference:,}" if reference else ""
    return Check(
        name=name,
        verdict=Verdict.PASS if value <= limit else Verdict.FAIL,
        estimate=value,
        bound=None,
        margin=limit,
        num_rows=1,
        detail=f"{value:,} bytes{compared}; allowed {limit:,}",
    )


def deciding_bound(outcome: NonInferiority) -> float:
    """Return the bound that decided, or the one that a PASS would need."""
    return outcome.upper if outcome.verdict is Verdict.FAIL else outcome.lower


def no_data(name: str, margin: float | None, *, blocking: bool = True) -> Check:
    """Return the check of evidence that does not exist: INCONCLUSIVE."""
    return Check(
        name=name,
        verdict=Verdict.INCONCLUSIVE,
        estimate=None,
        bound=None,
        margin=margin,
        num_rows=0,
        blocking=blocking,
        detail="no data",
    )


def enough_resamples(wanted: int, alpha: float) -> int:
    """Return at least so many resamples that some lie beyond a bound at level `alpha`."""
    return max(wanted, math.ceil(_DRAWS_BEYOND_BOUND / alpha))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
