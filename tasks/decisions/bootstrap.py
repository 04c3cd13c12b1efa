"""Resampling: the Bayesian bootstrap with one row more than there are, and the block bootstrap of positions.

Dimension legend: N rows, L losses of a row, R draws of the rows' weights.

A bound from the rows alone is too hopeful where few of them decide: the row that would have decided otherwise may
not be among them. So the weights are drawn for one row more than there are, and that row is the worst of those seen.
For losses of 0 and 1 the quantile of the weighted mean is then the bound of Clopper & Pearson (1934) exactly, and
for losses whose largest value is among the rows it is Gaffke's (2005), who conjectured that it errs with alpha at
most for any distribution of them. Losses have no largest value, so the row counts `Doubled.weight` times.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

_CHUNK_CELLS = 4_000_000
"""Largest matrix held at once: 32 MB."""
_UNSEEN = 4.0
"""Weight of the doubled row beyond 1 where a single row decides: chosen by simulation, see docs/gates.md."""


def resampled_positions(
    num_samples: int, num_resamples: int, seed: int, block_length: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield matrices [R_i, num_samples] of drawn positions, with the R_i adding up to `num_resamples`.

    With `block_length` above 1 it is the circular block bootstrap (Politis & Romano 1992): runs of that many
    neighbours are drawn together, which keeps their correlation.
    """
    generator = np.random.default_rng(seed)
    num_blocks = -(-num_samples // block_length)
    rows_at_once = max(1, _CHUNK_CELLS // max(num_samples, 1))
    for start in range(0, num_resamples, rows_at_once):
        rows = min(rows_at_once, num_resamples - start)
        firsts = generator.integers(0, num_samples, size=(rows, num_blocks, 1))
        positions = (firsts + np.arange(block_length)) % num_samples
        yield positions.reshape(rows, -1)[:, :num_samples]


@dataclass(frozen=True)
class Doubled:
    """The rows that count once more than they were seen."""

    highest: int
    """Position of the one that raises the statistic most."""
    lowest: int
    """Position of the one that lowers it most."""
    weight: float
    """How often either counts once more: see `unseen_weight`."""

    @classmethod
    def of(cls, values: NDArray[np.float64], weight: float) -> "Doubled":
        """Choose by the statistic's values [N] with each of the rows once more."""
        return cls(int(values.argmax()), int(values.argmin()), weight)


def unseen_weight(influence: NDArray[np.float64]) -> float:
    """Return how often the doubled row counts: 1 + 4 sum psi^4 / (sum psi^2)^2, with psi a row's influence.

    (sum psi^2)^2 / sum psi^4 is the number of rows that carry the statistic's variance (Kish's effective sample size of
    the weights psi^2): a third of the rows for normal ones, 1 if a single row decides. The fewer they are, the worse
    than the worst of them an unseen one may be.

    Args:
        influence: [N] of each row on the statistic, in any unit, with mean 0.
    """
    largest = float(np.abs(influence).max())
    if largest == 0.0:
        return 1.0
    squares = (influence / largest) ** 2  # fourth powers of tiny values would vanish
    return 1.0 + _UNSEEN * float(np.sum(squares**2)) / float(np.sum(squares)) ** 2


def doubled_means(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [L, N]: the mean of each of the L rows of `losses` [L, N] with one of the N samples once more."""
    means: NDArray[np.float64] = (losses.sum(axis=1, keepdims=True) + losses) / (losses.shape[1] + 1)
    return means


def weighted_means(
    losses: NDArray[np.float64], once_more: Doubled, num_draws: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two arrays [L, R] of weighted means of the rows: with the highest row once more, and with the lowest.

    The weights are drawn uniformly from all that add up to 1 (Rubin 1981): exponential ones, divided by their sum.
    They are the same for all L losses.
    """
    generator = np.random.default_rng(seed)
    num = losses.shape[1]
    draws_at_once = max(1, _CHUNK_CELLS // num)
    high: list[NDArray[np.float64]] = []
    low: list[NDArray[np.float64]] = []
    for start in range(0, num_draws, draws_at_once):
        weights = generator.standard_exponential((min(draws_at_once, num_draws - start), num + 1))
        weights[:, num] *= once_more.weight
        seen, total = losses @ weights[:, :num].T, weights.sum(axis=1)
        for row, parts in ((once_more.highest, high), (once_more.lowest, low)):
            parts.append((seen + losses[:, row : row + 1] * weights[:, num]) / total)
    return np.concatenate(high, axis=1), np.concatenate(low, axis=1)


def samples_to_settle(
    num_samples: int, standard_error: float, distance: float, alpha: float, power: float, shift: float = 0.0
) -> int | None:
    """Return the samples with which an estimate so far from its limit is told from it, or None if none are enough.

    The standard error shrinks with the root of the sample size, the shift with the size itself; together,
    (z_alpha + z_power) standard errors and the shift must fall to |distance|.

    Args:
        num_samples: samples now, too few to settle it.
        standard_error: of the estimate now.
        distance: limit minus estimate, in the same unit.
        alpha: one-sided error rate.
        power: probability with which that many samples would settle it.
        shift: how much further than z_alpha standard errors the bound lies from the estimate now, at least 0.
    """
    if math.isclose(distance, 0.0, abs_tol=1e-12):
        return None
    spread = standard_error * float(ndtri(1.0 - alpha) + ndtri(power))
    # spread x + shift x^2 = |distance|, with x^2 the samples now over those wanted
    root = (spread + math.sqrt(spread**2 + 4.0 * shift * abs(distance))) / (2.0 * abs(distance))
    return max(num_samples + 1, math.ceil(num_samples * root**2))
