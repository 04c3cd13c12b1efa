"""Non-inferiority on the same rows: is the candidate worse than the baseline by no more than a margin?

Notation: difference = p_candidate - p_baseline; a margin is a positive number that the candidate may lose.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, ndtr, ndtri

from tasks.contracts.verdict import Verdict

_EDGE = 1e-9


@dataclass(frozen=True)
class PairedTable:
    """Rows that both models answered, by who was right."""

    both_right: int
    only_baseline: int
    only_candidate: int
    both_wrong: int

    @classmethod
    def count(cls, baseline_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> "PairedTable":
        """Count from two boolean arrays [N] in the same order of rows."""
        return cls(
            both_right=int(np.count_nonzero(baseline_right & candidate_right)),
            only_baseline=int(np.count_nonzero(baseline_right & ~candidate_right)),
            only_candidate=int(np.count_nonzero(~baseline_right & candidate_right)),
            both_wrong=int(np.count_nonzero(~baseline_right & ~candidate_right)),
        )

    @property
    def total(self) -> int:
        """All rows."""
        return self.both_right + self.only_baseline + self.only_candidate + self.both_wrong

    @property
    def difference(self) -> float:
        """Observed p_candidate - p_baseline."""
        return (self.only_candidate - self.only_baseline) / self.total

    @property
    def discordance(self) -> float:
        """Share of rows on which exactly one of the two is right."""
        return (self.only_candidate + self.only_baseline) / self.total


@dataclass(frozen=True)
class NonInferiority:
    """The answer, with one-sided confidence bounds of the difference."""

    verdict: Verdict
    estimate: float
    lower: float
    upper: float
    p_value: float
    """Of the hypothesis that the candidate is worse by the margin or more."""
    p_value_worse: float
    """Of the hypothesis that it is worse by the margin at most."""
    num_rows: int
    num_rows_needed: int | None
    """For an INCONCLUSIVE verdict: rows that would settle it; None if no number would."""


def restricted_variance(lost: float, won: float, num_rows: float, difference: float) -> float:
    """Variance of one row's paired difference, estimated under the hypothesis that its mean is `difference`.

    Tango (1998): with q the maximum-likelihood share of lost rows given the hypothesis, the larger root of
    2n q^2 + (-(lost + won) + (2n - won + lost) d) q - lost d (1 - d) = 0, the variance is 2q + d (1 - d).

    Args:
        lost: rows that only the baseline got right (may be fractional when planning).
        won: rows that only the candidate got right.
        num_rows: all rows.
        difference: hypothesised p_candidate - p_baseline, between -1 and 1.
    """
    linear = -(lost + won) + (2.0 * num_rows - won + lost) * difference
    constant = -lost * difference * (1.0 - difference)
    root = math.sqrt(max(linear**2 - 8.0 * num_rows * constant, 0.0))
    share_lost = (root - linear) / (4.0 * num_rows)
    return max(2.0 * share_lost + difference * (1.0 - difference), 0.0)


def score_statistic(table: PairedTable, difference: float) -> float:
    """Tango's score statistic of the hypothesis that the difference is `difference`: standard normal if it is."""
    variance = restricted_variance(table.only_baseline, table.only_candidate, table.total, difference)
    distance = table.difference - difference
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance * math.sqrt(table.total / variance)


def score_bounds(table: PairedTable, alpha: float) -> tuple[float, float]:
    """Return the one-sided lower and upper score confidence bounds of the difference, each at level 1 - `alpha`."""
    quantile = float(ndtri(1.0 - alpha))
    estimate = table.difference

    def solve(target: float, end: float) -> float:
        if abs(end - estimate) <= 2.0 * _EDGE:
            return math.copysign(1.0, end)
        return float(brentq(lambda value: score_statistic(table, value) - target, estimate, end, xtol=1e-10))

    return solve(quantile, -1.0 + _EDGE), solve(-quantile, 1.0 - _EDGE)


def judge_difference(table: PairedTable, margin: float, alpha: float, power: float) -> NonInferiority:
    """Test whether the candidate's proportion of right rows is at most `margin` below the baseline's.

    PASS if the lower bound lies above -margin, FAIL if the upper bound lies below it, else INCONCLUSIVE. The
    one-sided size, by exact enumeration, is at most 0.055 at a nominal 0.05 for 100 rows or more.

    Args:
        table: at least one row.
        margin: largest tolerated drop, a fraction above 0.
        alpha: error rate of a wrong PASS, and of a wrong FAIL.
        power: probability with which `num_rows_needed` rows would settle it.
    """
    lower, upper = score_bounds(table, alpha)
    statistic = score_statistic(table, -margin)
    verdict = three_valued(passed=lower > -margin, failed=upper < -margin)
    needed = None
    if verdict is Verdict.INCONCLUSIVE:
        needed = rows_needed(table.discordance, -table.difference, margin, alpha, power)
    return NonInferiority(
        verdict=verdict,
        estimate=table.difference,
        lower=lower,
        upper=upper,
        p_value=float(ndtr(-statistic)),
        p_value_worse=float(ndtr(statistic)),
        num_rows=table.total,
        num_rows_needed=needed,
    )


def three_valued(*, passed: bool, failed: bool) -> Verdict:
    """Turn two one-sided answers into a verdict; neither means INCONCLUSIVE."""
    if passed:
        return Verdict.PASS
    return Verdict.FAIL if failed else Verdict.INCONCLUSIVE


def rows_needed(discordant_rate: float, true_drop: float, margin: float, alpha: float, power: float) -> int | None:
    """Return the rows that settle a margin with probability `power`, or None if no number does.

    n = ((z_alpha s0 + z_power s1) / (margin - drop))^2, where s1^2 = discordance - drop^2 is the variance of a
    row's paired difference and s0^2 the one that the score test assumes at the margin. A drop below the
    margin is settled by PASS, a drop above it by FAIL; at the margin itself nothing settles it.

    Args:
        discordant_rate: share of rows on which exactly one model is right.
        true_drop: p_baseline - p_candidate.
        margin: largest tolerated drop, a fraction above 0.
        alpha: one-sided error rate.
        power: wanted probability of settling it.
    """
    distance = margin - true_drop
    if math.isclose(distance, 0.0, abs_tol=1e-12):
        return None
    discordance = max(discordant_rate, abs(true_drop))
    lost, won = (discordance + true_drop) / 2.0, (discordance - true_drop) / 2.0
    assumed = math.sqrt(restricted_variance(lost, won, 1.0, -margin))
    actual = math.sqrt(max(discordance - true_drop**2, 0.0))
    spread = float(ndtri(1.0 - alpha)) * assumed + float(ndtri(power)) * actual
    return math.ceil((spread / distance) ** 2)


def mcnemar_p_value(table: PairedTable) -> float:
    """Return the exact two-sided p-value of equal proportions: a binomial test on the discordant rows."""
    discordant = table.only_baseline + table.only_candidate
    smaller = min(table.only_baseline, table.only_candidate)
    return min(1.0, 2.0 * float(bdtr(smaller, discordant, 0.5)))


def right_rows(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return [N] whether the largest output is the label's; a row with an output that is not finite is wrong."""
    if len(labels) == 0:
        return np.zeros(0, dtype=np.bool_)
    right: NDArray[np.bool_] = (outputs.argmax(axis=1) == labels) & np.isfinite(outputs).all(axis=1)
    return right
