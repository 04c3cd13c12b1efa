"""The paired bootstrap: seeded resampling of positions, the same for both models, and bounds from its draws."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

_CHUNK_CELLS = 4_000_000
"""Largest index matrix held at once: 32 MB."""
_MOST_ACCELERATED = 1.0 / 6.0


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


def resampled_means(losses: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Return [L, R]: the mean of each of the L rows of `losses` [L, N] in R resamples of N, the same ones for all L."""
    parts = [
        np.stack([loss[positions].mean(axis=1) for loss in losses])
        for positions in resampled_positions(losses.shape[1], num_resamples, seed)
    ]
    return np.concatenate(parts, axis=1)


def left_out_means(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [L, N]: the mean of each of the L rows of `losses` [L, N] without one of the N samples."""
    with np.errstate(invalid="ignore"):  # nothing is left of an infinite sum without an infinite loss
        means: NDArray[np.float64] = (losses.sum(axis=1, keepdims=True) - losses) / (losses.shape[1] - 1)
    return means


def acceleration(left_out: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> float:
    """Return how fast a statistic's standard error grows with its value, from the jackknife.

    Efron (1987): a = sum psi^3 / (6 (sum psi^2)^(3/2)), psi the mean of the values without one sample minus each of
    them. It is a sixth of the influence's skewness over sqrt(N), and 1/6 at most, where all rests on one sample.

    Args:
        left_out: [N] the statistic without each of the samples, or [C] without one of each of C kinds of them.
        counts: [C] how many samples there are of each kind; one of each if None.
    """
    if not np.isfinite(left_out).all():
        return _MOST_ACCELERATED
    weights = np.ones(len(left_out)) if counts is None else counts.astype(np.float64)
    influence = np.average(left_out, weights=weights) - left_out
    spread = float(np.sum(weights * influence**2))
    return float(np.sum(weights * influence**3)) / (6.0 * spread**1.5) if spread**1.5 > 0.0 else 0.0


def corrected_bounds(
    draws: NDArray[np.float64], estimate: float, accelerated: float, num_samples: int, alpha: float
) -> tuple[float, float]:
    """Return the one-sided lower and upper bound of a statistic, each at level `alpha`, from its bootstrap draws.

    The draws' own percentiles are off by phi(z) g (z^2 + 2) / (6 sqrt(N)) where the statistic's influence has the
    skewness g, as that of a mean has if a model seldom errs but then far (Hall 1992, section 3.4). The
    bias-corrected and accelerated percentiles (Efron 1987) lack that term. Their levels are
    Phi(z0 + q / (1 - a q)) with q = z0 -+ r; z0 is the normal quantile of the share of draws below the estimate (ties
    count half), a the acceleration. r is z_alpha in Efron, here t_alpha sqrt(N / (N - 1)) with N - 1 degrees of
    freedom, since draws spread by the sample's own deviation, with N as its divisor (the expanded percentile of
    Hesterberg 2015, The American Statistician 69).

    Args:
        draws: [R] the statistic in each resample, none NaN.
        estimate: the statistic of the samples themselves.
        accelerated: see `acceleration`.
        num_samples: N, at least 2.
        alpha: error rate of each bound.
    """
    below = (np.count_nonzero(draws < estimate) + 0.5 * np.count_nonzero(draws == estimate)) / len(draws)
    least = 0.5 / len(draws)
    bias = float(ndtri(min(max(below, least), 1.0 - least)))
    reach = float(stdtrit(num_samples - 1, 1.0 - alpha)) * math.sqrt(num_samples / (num_samples - 1))
    levels = [_level(bias, bias + distance, accelerated) for distance in (-reach, reach)]
    lower, upper = np.quantile(draws, levels, method="higher")
    return float(lower), float(upper)


def _level(bias: float, distance: float, accelerated: float) -> float:
    stretch = 1.0 - accelerated * distance
    if stretch <= 0.0:  # the bound lies beyond every draw
        return 1.0 if distance > 0.0 else 0.0
    return float(ndtr(bias + distance / stretch))


def samples_to_settle(
    num_samples: int, standard_error: float, distance: float, alpha: float, power: float
) -> int | None:
    """Return the samples with which an estimate so far from its limit is told from it, or None if none are enough.

    The standard error shrinks with the root of the sample size; it must fall to |distance| / (z_alpha + z_power).

    Args:
        num_samples: samples now, too few to settle it.
        standard_error: of the estimate now.
        distance: limit minus estimate, in the same unit.
        alpha: one-sided error rate.
        power: probability with which that many samples would settle it.
    """
    if math.isclose(distance, 0.0, abs_tol=1e-12):
        return None
    wanted = abs(distance) / float(ndtri(1.0 - alpha) + ndtri(power))
    return max(num_samples + 1, math.ceil(num_samples * (standard_error / wanted) ** 2))
