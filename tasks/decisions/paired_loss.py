"""Non-inferiority of a mean loss (RMSE, MAE and the like) on the same rows, by the paired Bayesian bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from tasks.contracts.verdict import Verdict
from tasks.decisions.bootstrap import Doubled, doubled_means, samples_to_settle, unseen_weight, weighted_means
from tasks.decisions.noninferiority import three_valued

MIN_ROWS = 100
"""Fewer rows are INCONCLUSIVE: too few of them carry the difference for its bounds to be trusted."""

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From means [L, R] of L losses to an increase [R], positive is worse."""


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
        num_resamples: draws of the rows' weights; both bounds are quantiles of what they give.
        seed: of the draws.
    """
    num = len(candidate_loss)
    if num < MIN_ROWS:
        return too_few(num)
    if relative and not np.any(baseline_loss > 0.0):
        # a ratio to a perfect baseline does not exist, and no number of rows gives it one
        return LossIncrease(Verdict.INCONCLUSIVE, None, None, None, num, None)

    def increase(means: NDArray[np.float64]) -> NDArray[np.float64]:
        candidate, baseline = np.sqrt(means) if statistic == "root_mean" else means
        increased: NDArray[np.float64] = candidate / baseline - 1.0 if relative else candidate - baseline
        return increased

    losses = np.stack([candidate_loss, baseline_loss])
    return judge_means(increase, losses, margin, alpha, power, num_resamples, seed)


def judge_means(
    statistic: Statistic,
    losses: NDArray[np.float64],
    margin: float,
    alpha: float,
    power: float,
    num_draws: int,
    seed: int,
) -> LossIncrease:
    """Hold an increase that is a function of means over the rows against its margin.

    Args:
        statistic: finite for the means of every weighting of finite rows.
        losses: [L, N].
        margin: tolerated increase.
        alpha: one-sided error rate of each bound.
        power: probability with which `num_rows_needed` rows would settle it.
        num_draws: of the rows' weights.
        seed: of the draws.
    """
    estimate = float(statistic(losses.mean(axis=1, keepdims=True))[0])
    if not np.isfinite(estimate):  # an infinite loss of the candidate stays one under every weighting
        return LossIncrease(Verdict.FAIL, np.inf, np.inf, np.inf, losses.shape[1], None)
    values = statistic(doubled_means(losses))
    once_more = Doubled.of(values, unseen_weight(values - values.mean()))
    high, low = weighted_means(losses, once_more, num_draws, seed)
    return judge_draws(statistic(high), statistic(low), estimate, margin, alpha, losses.shape[1], power)


def judge_draws(
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    estimate: float,
    margin: float,
    alpha: float,
    num_rows: int,
    power: float,
) -> LossIncrease:
    """Hold the drawn distribution of an increase against its margin, by its quantiles.

    Args:
        high: [R] the increase with the row that raises it most once more, which gives the upper bound.
        low: [R] the same with the row that lowers it most, which gives the lower bound.
        estimate: the increase on the rows themselves.
        margin: tolerated increase.
        alpha: one-sided error rate of each bound.
        num_rows: rows behind it.
        power: probability with which `num_rows_needed` rows would settle it.
    """
    upper = float(np.quantile(high, 1.0 - alpha, method="higher"))
    lower = float(np.quantile(low, alpha, method="lower"))
    verdict = three_valued(passed=upper < margin, failed=lower > margin)
    needed = None
    if verdict is Verdict.INCONCLUSIVE:
        draws, reach = (high, upper - estimate) if estimate < margin else (low, estimate - lower)
        error = float(draws.std())
        shift = max(reach - error * float(ndtri(1.0 - alpha)), 0.0)
        needed = samples_to_settle(num_rows, error, margin - estimate, alpha, power, shift)
    return LossIncrease(verdict, estimate, lower, upper, num_rows, needed)


def too_few(num_rows: int) -> LossIncrease:
    """Return the answer that fewer than `MIN_ROWS` rows give."""
    return LossIncrease(Verdict.INCONCLUSIVE, None, None, None, num_rows, MIN_ROWS)
