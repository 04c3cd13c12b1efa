"""Always-valid inference: evidence that may be looked at after every row, and bounds that hold at all looks at once.

Everything rests on e-values: non-negative processes whose mean under the null hypothesis stays at most 1.
By Ville's inequality such a process ever reaches 1/alpha with probability at most alpha, so a test that rejects
at the first crossing has size alpha however often it is looked at.
"""

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaln, log_ndtr, xlog1py, xlogy

_JEFFREYS = (0.5, 0.5)
_TINY = 1e-12
QUANTILE_CONCENTRATION = 20.0
"""Rows that the prior of a quantile bound is worth: tightest for samples of about a hundred to some thousands."""


def binomial_log_e(
    successes: ArrayLike, trials: ArrayLike, rate: ArrayLike, prior: tuple[float, float] = _JEFFREYS
) -> NDArray[np.float64]:
    """Return the log e-value against "each trial succeeds with probability `rate`", alternatives on both sides.

    The likelihood under a Beta(a, b) mixture over that under `rate` (Robbins 1970; Lindon & Malek 2022):
    B(s + a, n - s + b) / B(a, b) / (rate^s (1 - rate)^(n - s)). Exact for every n; infinite when the
    data are impossible under `rate`.
    """
    a, b = prior
    s, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    result: NDArray[np.float64] = (
        betaln(s + a, n - s + b) - betaln(a, b) - xlogy(s, rate) - xlog1py(n - s, -np.asarray(rate))
    )
    return result


def always_valid_p_value(log_e: ArrayLike) -> NDArray[np.float64]:
    """Return min(1, 1 / e): under the null it ever falls to alpha with probability alpha at most."""
    p_value: NDArray[np.float64] = np.exp(-np.maximum(np.asarray(log_e, dtype=np.float64), 0.0))
    return p_value


def fewer_log_e(
    successes: ArrayLike, trials: ArrayLike, rate: float, prior: tuple[float, float] = _JEFFREYS
) -> NDArray[np.float64]:
    """Return the log e-value against "the success probability is at least `rate`", alternatives below it.

    As `binomial_log_e` with the prior cut off at `rate`. It is an e-value for the whole one-sided null, since
    the likelihood ratio of any smaller probability to `rate` has its largest mean at `rate` itself.
    """
    a, b = prior
    s, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    with np.errstate(divide="ignore"):  # log 0: the mixture has no mass where the data point
        cut = np.log(betainc(s + a, n - s + b, rate)) - np.log(betainc(a, b, rate))
    result: NDArray[np.float64] = binomial_log_e(s, n, rate, prior) + cut
    return result


def rate_upper_bound(successes: int, trials: int, alpha: float) -> float:
    """Return the always-valid one-sided upper bound of a success probability; 1 without trials."""
    if trials == 0:
        return 1.0
    observed = successes / trials
    threshold = -np.log(alpha)

    def excess(rate: float) -> float:
        return float(fewer_log_e(successes, trials, rate) - threshold)

    if observed >= 1.0 - _TINY or excess(1.0 - _TINY) < 0.0:
        return 1.0
    return float(brentq(excess, max(observed, _TINY), 1.0 - _TINY))


def rate_lower_bound(successes: int, trials: int, alpha: float) -> float:
    """Return the always-valid one-sided lower bound of a success probability; 0 without trials."""
    return 1.0 - rate_upper_bound(trials - successes, trials, alpha)


def quantile_bounds(samples: NDArray[np.float64], quantile: float, alpha: float) -> tuple[float, float]:
    """Return always-valid one-sided lower and upper bounds of a quantile, each at level `alpha`.

    A value x below the quantile has fewer than n * quantile samples at or under it, more than binomial chance
    allows; so both bounds are order statistics (Howard & Ramdas 2022, section 3). No assumption about the
    distribution; samples are taken as independent. (-inf, inf) as long as there are too few.

    Args:
        samples: [N] in any order.
        quantile: between 0 and 1, exclusive.
        alpha: error rate of each bound, over all looks together.
    """
    num = len(samples)
    if num == 0:
        return -np.inf, np.inf
    ordered = np.sort(samples)
    lower_rank = _num_too_few(num, quantile, alpha)
    upper_rank = num + 1 - _num_too_few(num, 1.0 - quantile, alpha)
    lower = float(ordered[lower_rank - 1]) if lower_rank > 0 else -np.inf
    upper = float(ordered[upper_rank - 1]) if upper_rank <= num else np.inf
    return lower, upper


def _num_too_few(trials: int, rate: float, alpha: float) -> int:
    """Return how many counts of successes, from 0 upwards, are too few for a success probability `rate`."""
    prior = (QUANTILE_CONCENTRATION * rate, QUANTILE_CONCENTRATION * (1.0 - rate))
    threshold = -np.log(alpha)
    below_mean = range(math.ceil(trials * rate))
    return bisect_left(below_mean, True, key=lambda count: bool(fewer_log_e(count, trials, rate, prior) < threshold))


def drift_log_e(score: float, information: float, scales: tuple[float, ...]) -> float:
    """Return the log e-value against "no upward drift" of a score process.

    The score is taken as Brownian motion with drift theta in information time (the canonical form of
    sequential trials; asymptotic confidence sequences of Waudby-Smith et al. 2024). The mixture over theta is
    half normal with standard deviation tau (Howard et al. 2021, proposition 6), averaged over `scales`:
    2 sqrt(r / (I + r)) exp(S^2 / (2 (I + r))) Phi(S / sqrt(I + r)), r = tau^-2.

    Args:
        score: information times (estimate - hypothesised value).
        information: inverse of the estimate's variance.
        scales: effects, in units of the estimate, for which the test is tuned.
    """
    r = np.asarray(scales, dtype=np.float64) ** -2.0
    total = information + r
    terms = np.log(2.0) + 0.5 * np.log(r / total) + 0.5 * score**2 / total + log_ndtr(score / np.sqrt(total))
    return float(np.logaddexp.reduce(terms) - np.log(len(r)))


def crossing(log_e_at: Callable[[float], float], estimate: float, end: float, alpha: float) -> float:
    """Invert a test: return the value between `estimate` and `end` from which on hypotheses are rejected.

    Args:
        log_e_at: log e-value of a hypothesised value; grows from `estimate` towards `end`.
        estimate: never rejected.
        end: the last possible value, returned if even that is not rejected.
        alpha: error rate over all looks.
    """
    threshold = -np.log(alpha)
    if log_e_at(end) < threshold:
        return end
    return float(brentq(lambda value: log_e_at(value) - threshold, estimate, end, xtol=1e-6))
