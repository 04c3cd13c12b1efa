"""Non-inferiority of a mean loss (RMSE, MAE and the like) on the same rows, by the paired bootstrap."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.verdict import Verdict
from tasks.decisions.bootstrap import (
    acceleration,
    corrected_bounds,
    left_out_means,
    resampled_means,
    samples_to_settle,
)
from tasks.decisions.noninferiority import three_valued

MIN_ROWS = 100
"""Fewer rows are INCONCLUSIVE: percentile bounds of so few losses are too narrow."""


@dataclass(frozen=True)
class LossIncrease:
    """The answer, with one-sided confidence bounds of the increase (positive is worse)."""

    verdict: Verdict
    estimate: float | None
    lower: float | None
    upper: float | None
    num_rows: int
    num_rows_needed: int | None
    """For an INCONCLUSIVE verdict: rows that would settle it; None if no number would."""


def judge_loss_increase(
    candidate_loss: NDArray[np.float64],
    baseline_loss: NDArray[np.float64],
    margin: float,
    alpha: float,
    *,
    statistic: Literal["mean", "root_mean"],
    relative: bool,
    power: float = 0.8,
    num_resamples: int = 2000,
    seed: int = 0,
) -> LossIncrease:
    """Test whether the candidate's mean loss is above the baseline's by at most `margin`.

    PASS if the upper bound of the increase lies below `margin`, FAIL if the lower bound lies above it.

    Args:
        candidate_loss: [N] loss of every row (squared errors for RMSE), finite.
        baseline_loss: [N] the same for the baseline, in the same order.
        margin: tolerated increase; a fraction of the baseline's if `relative`, else in the loss's unit.
        alpha: one-sided error rate of each bound.
        statistic: `root_mean` of squared errors is the RMSE, `mean` of absolute errors the MAE.
        relative: judge candidate / baseline - 1 instead of candidate - baseline.
        power: probability with which `num_rows_needed` rows would settle it.
        num_resamples: bootstrap resamples; both bounds are corrected percentiles of them.
        seed: of the resampling.
    """
    num = len(candidate_loss)
    if num < MIN_ROWS:
        return too_few(num)
    if relative and not np.any(baseline_loss > 0.0):
        # a ratio to a perfect baseline does not exist, and no number of rows gives it one
        return LossIncrease(Verdict.INCONCLUSIVE, None, None, None, num, None)

    def increase(candidate: NDArray[np.float64], baseline: NDArray[np.float64]) -> NDArray[np.float64]:
        if statistic == "root_mean":
            candidate, baseline = np.sqrt(candidate), np.sqrt(baseline)
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold none but perfect rows
            return candidate / baseline - 1.0 if relative else candidate - baseline

    losses = np.stack([candidate_loss, baseline_loss])
    draws = increase(*resampled_means(losses, num_resamples, seed))
    accelerated = acceleration(increase(*left_out_means(losses)))
    return judge_draws(draws, float(increase(*losses.mean(axis=1))), accelerated, margin, alpha, num, power)


def judge_draws(
    draws: NDArray[np.float64],
    estimate: float,
    accelerated: float,
    margin: float,
    alpha: float,
    num_rows: int,
    power: float,
) -> LossIncrease:
    """Hold the bootstrap distribution of an increase against its margin, by its corrected percentiles.

    Args:
        draws: [R] the increase in each resample; one that is not finite counts as the worst.
        estimate: the increase on the rows themselves.
        accelerated: the increase's acceleration.
        margin: tolerated increase.
        alpha: one-sided error rate of each bound.
        num_rows: rows behind it.
        power: probability with which `num_rows_needed` rows would settle it.
    """
    draws = np.nan_to_num(draws, nan=np.inf, posinf=np.inf)
    lower, upper = corrected_bounds(draws, estimate, accelerated, num_rows, alpha)
    verdict = three_valued(passed=upper < margin, failed=lower > margin)
    needed = None
    if verdict is Verdict.INCONCLUSIVE and np.isfinite(draws).all():
        needed = samples_to_settle(num_rows, float(draws.std()), margin - estimate, alpha, power)
    return LossIncrease(verdict, estimate, lower, upper, num_rows, needed)


def too_few(num_rows: int) -> LossIncrease:
    """Return the answer that fewer than `MIN_ROWS` rows give."""
    return LossIncrease(Verdict.INCONCLUSIVE, None, None, None, num_rows, MIN_ROWS)
