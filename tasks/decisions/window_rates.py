"""Rates of one window against those of a reference: accuracy on labels, and failed requests."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri
from scipy.stats import binom


def wilson_bounds(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Return the one-sided score bounds of a proportion, each at level `alpha` (Wilson 1927).

    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n), z the 1 - alpha quantile; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    z, share = float(ndtri(1.0 - alpha)), successes / trials
    spread = z * math.sqrt(share * (1.0 - share) / trials + z**2 / (4.0 * trials**2))
    centre, scale = share + z**2 / (2.0 * trials), 1.0 + z**2 / trials
    return (centre - spread) / scale, (centre + spread) / scale


def difference_bounds(
    successes: int, trials: int, reference_successes: int, reference_trials: int, alpha: float
) -> tuple[float, float]:
    """Return one-sided bounds of the window's proportion minus the reference's, each at level `alpha`.

    Newcombe 1998, method 10: the Wilson bounds (l, u) of both, combined as
    d - sqrt((p1 - l1)² + (u2 - p2)²) and d + sqrt((u1 - p1)² + (p2 - l2)²). (-1, 1) where one has no trials.
    """
    if not trials or not reference_trials:
        return -1.0, 1.0
    share, reference = successes / trials, reference_successes / reference_trials
    low, high = wilson_bounds(successes, trials, alpha)
    reference_low, reference_high = wilson_bounds(reference_successes, reference_trials, alpha)
    difference = share - reference
    lower = difference - math.hypot(share - low, reference_high - reference)
    upper = difference + math.hypot(high - share, reference - reference_low)
    return lower, upper


def exact_bounds(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Return the exact one-sided bounds of a proportion, each at level `alpha` (Clopper & Pearson 1934)."""
    lower = float(betaincinv(successes, trials - successes + 1, alpha)) if successes else 0.0
    upper = float(betaincinv(successes + 1, trials - successes, 1.0 - alpha)) if successes < trials else 1.0
    return lower, upper


def excess_p_value(successes: int, trials: int, rate: float) -> float:
    """Return the exact chance of at least so many successes when each has the probability `rate`."""
    return float(binom.sf(successes - 1, trials, rate)) if trials else 1.0


def quantile_ratio_bounds(
    window_N: NDArray[np.float64],
    reference_M: NDArray[np.float64],
    quantile: float,
    alpha: float,
    *,
    num_resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return a quantile of the window over that of the reference, with one-sided bounds at level `alpha` each.

    A bootstrap of both samples. The k-th smallest of a resample of N values is the value at rank ceil(N U), U being
    the k-th smallest of N uniform numbers, which is Beta(k, N + 1 - k): one draw in place of N, and the same
    distribution (Efron 1979; the quantile is the order statistic k = ceil(q N)).

    Args:
        window_N: positive values, in any order.
        reference_M: likewise.
        quantile: between 0 and 1, exclusive.
        alpha: error rate of each bound.
        num_resamples: bootstrap resamples.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        _resampled_quantiles(np.sort(values), quantile, num_resamples, generator) for values in (window_N, reference_M)
    ]
    lower, upper = np.quantile(np.log(drawn[0]) - np.log(drawn[1]), [alpha, 1.0 - alpha])
    estimate = _quantile(np.sort(window_N), quantile) / _quantile(np.sort(reference_M), quantile)
    return estimate, math.exp(lower), math.exp(upper)


def samples_for_quantile(quantile: float, *, beyond: int = 5) -> int:
    """Return the fewest samples from which a bootstrap of `quantile` is trusted: `beyond` of them past it."""
    return math.ceil(round(beyond / min(quantile, 1.0 - quantile), 6))


def _rank(num: int, quantile: float) -> int:
    return max(1, math.ceil(round(quantile * num, 9)))


def _quantile(ordered: NDArray[np.float64], quantile: float) -> float:
    return float(ordered[_rank(len(ordered), quantile) - 1])


def _resampled_quantiles(
    ordered: NDArray[np.float64], quantile: float, num_resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    num, rank = len(ordered), _rank(len(ordered), quantile)
    uniforms = generator.beta(rank, num + 1 - rank, num_resamples)
    return ordered[np.minimum(np.ceil(num * uniforms).astype(np.int64) - 1, num - 1)]
