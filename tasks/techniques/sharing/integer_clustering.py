"""The best few int8 values to stand for all those of a weight: exact, since there are only 256 candidates.

Dimension legend: V distinct values in rising order, K centroids.
"""

import numpy as np


def best_integers(values_V: np.ndarray, mass_V: np.ndarray, num_centroids: int) -> np.ndarray:
    """Map every value to one of at most `num_centroids` integers with the least summed squared change.

    Minimises sum_v mass_v (v - c(v))^2 over all maps c onto integers with c(0) = 0, by dynamic programming
    over runs of sorted values: the best clusters in one dimension are runs (Wang & Song 2011, The R
    Journal 3/2), and the best integer for a run is its mean rounded.

    Args:
        values_V: integers in rising order, each once.
        mass_V: positive weight of each, such as its count times the squared scale.
        num_centroids: at least 1.

    Returns:
        c(v) for each value, [V].
    """
    num_values = len(values_V)
    if num_values <= num_centroids:
        return values_V.copy()
    centre_VV, cost_VV = _runs(values_V.astype(np.float64), mass_V.astype(np.float64))
    best_V = cost_VV[0]  # least cost of the values up to each, in one run
    starts_KV = [np.zeros(num_values, dtype=np.int64)]
    for _ in range(1, num_centroids):
        # the last run begins at `start`; the values before it are clustered best already
        before_V = np.concatenate([[0.0], best_V[:-1]])
        totals_VV = before_V[:, None] + cost_VV
        starts_KV.append(totals_VV.argmin(axis=0))
        best_V = totals_VV.min(axis=0)
    mapped_V = np.empty_like(values_V)
    end = num_values - 1
    for starts_V in reversed(starts_KV):
        if end < 0:
            break
        start = int(starts_V[end])
        mapped_V[start : end + 1] = centre_VV[start, end]
        end = start - 1
    return mapped_V


def _runs(values_V: np.ndarray, mass_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best integer [V, V] and its cost [V, V] of every run from a first to a last value."""
    sums = [np.concatenate([[0.0], np.cumsum(mass_V * values_V**power)]) for power in (0, 1, 2)]
    mass, first, second = (each[None, 1:] - each[:-1, None] for each in sums)
    empty = np.tril(np.ones(mass.shape, dtype=bool), -1)
    centre_VV = np.rint(first / np.where(empty, 1.0, mass))
    holds_zero = (values_V[:, None] <= 0) & (values_V[None, :] >= 0) & (values_V == 0).any()
    centre_VV[holds_zero] = 0.0
    cost_VV = second - 2 * centre_VV * first + centre_VV**2 * mass
    return centre_VV, np.where(empty, np.inf, cost_VV)
