"""How often the paired test settles its margin, computed before any row is read.

L rows are lost (only the baseline is right) and W are won (only the candidate is) of n.
"""

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, ndtri, xlog1py, xlogy

from tasks.decisions.noninferiority import PairedTable, rows_needed, score_statistic

_MOST_COUNTED = 2_000.0
"""Expected lost and won rows up to which tables are counted; beyond, the normal formula is off by less than 1 %."""
_DEVIATIONS, _SLACK = 7.0, 10
"""How far from their mean counts are followed, in standard deviations and rows: all but some 1e-9 of the tables."""


def settling_power(num_rows: int, discordant_rate: float, true_drop: float, margin: float, alpha: float) -> float:
    """Return the probability with which `num_rows` rows settle the margin, exactly.

    (L, W) is multinomial with the shares (discordance +- drop) / 2. Tango's statistic falls with every row that is
    lost, so that for each number of won rows w there is a smallest number of lost ones, c(w), that does not pass any
    more, and the probability of a PASS is sum_w P(W = w) P(L < c(w) | W = w): given w, L is binomial of n - w trials
    with the share p_lost / (1 - p_won). With a drop beyond the margin it is that of a FAIL, likewise.

    Args:
        num_rows: n.
        discordant_rate: share of rows on which exactly one model is right; at least the size of the drop.
        true_drop: p_baseline - p_candidate.
        margin: largest tolerated drop, a fraction above 0.
        alpha: one-sided error rate of the test.
    """
    discordance = max(discordant_rate, abs(true_drop))
    if num_rows == 0:
        return 0.0
    lost, won = (discordance + true_drop) / 2.0, (discordance - true_drop) / 2.0
    share = lost / (1.0 - won) if won < 1.0 else 0.0
    passes = true_drop < margin
    quantile = float(ndtri(1.0 - alpha)) * (1.0 if passes else -1.0)
    counts_W = np.array(_likely(num_rows, won))
    below_W = np.array([_lost_below(int(count), num_rows, share, margin, quantile) for count in counts_W])
    reached = float(np.sum(_binomial(counts_W, num_rows, won) * _at_most(below_W - 1, num_rows - counts_W, share)))
    return reached if passes else 1.0 - reached


def rows_for_power(discordant_rate: float, true_drop: float, margin: float, alpha: float, power: float) -> int | None:
    """Return the rows that settle a margin with probability `power`, or None if no number does.

    As `rows_needed`, but with the exact power: of few discordant rows the normal formula gives ten percent too many
    or too few. Counts come in whole rows, so that the exact power moves up and down by a point or two on its way
    (Chernick & Liu 2002, The American Statistician 56); this is one place where it reaches what is wanted.

    Args: as `rows_needed`.
    """
    roughly = rows_needed(discordant_rate, true_drop, margin, alpha, power)
    if roughly is None or roughly * max(discordant_rate, abs(true_drop)) > _MOST_COUNTED:
        return roughly

    def reaches(num_rows: int) -> bool:
        return settling_power(num_rows, discordant_rate, true_drop, margin, alpha) >= power

    most = roughly
    while not reaches(most):
        most *= 2
    return 1 + bisect_left(range(1, most), True, key=reaches)


def _likely(trials: int, share: float) -> range:
    """Return the counts of successes that are worth counting."""
    mean = trials * share
    reach = _DEVIATIONS * math.sqrt(mean * (1.0 - share)) + _SLACK
    return range(max(0, math.floor(mean - reach)), min(trials, math.ceil(mean + reach)) + 1)


def _lost_below(won: int, num_rows: int, share: float, margin: float, quantile: float) -> int:
    """Return the smallest number of lost rows whose statistic is not above `quantile`."""
    likely = _likely(num_rows - won, share)

    def rejects(lost: int) -> bool:
        table = PairedTable(num_rows - won - lost, lost, won, 0)  # both right or both wrong: the test does not ask
        return score_statistic(table, -margin) <= quantile

    return likely.start + bisect_left(likely, True, key=rejects)


def _binomial(successes: NDArray[np.int64], trials: int, share: float) -> NDArray[np.float64]:
    ways = gammaln(trials + 1.0) - gammaln(successes + 1.0) - gammaln(trials - successes + 1.0)
    probability: NDArray[np.float64] = np.exp(ways + xlogy(successes, share) + xlog1py(trials - successes, -share))
    return probability


def _at_most(successes: NDArray[np.int64], trials: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    reached: NDArray[np.float64] = bdtr(np.clip(successes, 0, trials).astype(np.float64), trials, share)
    return np.where(successes < 0, 0.0, reached)
