"""K-means in one dimension: which few values stand for many.

Dimension legend: N values, U distinct values in rising order, K centroids.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Initialisation = Literal["linear", "kmeans++"]

_MAX_ITERATIONS = 1000
"""Far above the tens that sorted values need."""


@dataclass(frozen=True)
class Clusters:
    """Centroids in rising order, and the nearest one of each value."""

    centroids_K: np.ndarray  # noqa: N815
    """float64."""
    labels: np.ndarray
    """uint8, of the values' shape."""
    pinned_K: np.ndarray  # noqa: N815
    """bool, centroids that are exact values by wish."""
    squared_error: float
    """Sum over the values of the squared distance to their centroid."""


def cluster(
    values: np.ndarray, num_centroids: int, *, initialisation: Initialisation, seed: int, pinned: tuple[float, ...] = ()
) -> Clusters:
    """Minimise the summed squared distance to `num_centroids` centroids by Lloyd's iterations.

    Where there are no more distinct values than centroids, the centroids are those values, exactly.

    Args:
        values: finite, of any shape.
        num_centroids: 2 to 256, and no fewer than `pinned`.
        initialisation: `linear` spaces the centroids evenly from the least to the greatest value, which
            keeps the rare large weights (Han et al. 2016, arXiv:1510.00149, section 3.2); `kmeans++`
            draws them with probability proportional to the squared distance (Arthur & Vassilvitskii 2007).
        seed: of the draws.
        pinned: values that are centroids themselves where they occur among `values`.
    """
    distinct_U, inverse, counts_U = np.unique(values.astype(np.float64), return_inverse=True, return_counts=True)
    held = np.array([value for value in sorted(pinned) if value in distinct_U], dtype=np.float64)
    if len(distinct_U) <= num_centroids:
        centroids_K = np.pad(distinct_U, (0, num_centroids - len(distinct_U)), mode="edge")
        nearest_U = np.arange(len(distinct_U))
    else:
        if initialisation == "linear":
            start_K = _linear(distinct_U, num_centroids, held)
        else:
            start_K = _spread(distinct_U, counts_U, num_centroids, held, seed)
        centroids_K = _lloyd(distinct_U, counts_U, start_K, np.isin(start_K, held))
        nearest_U = _nearest(distinct_U, centroids_K)
    error = float(counts_U @ (distinct_U - centroids_K[nearest_U]) ** 2)
    labels = nearest_U.astype(np.uint8)[inverse].reshape(values.shape)
    return Clusters(centroids_K, labels, np.isin(centroids_K, held), error)


def _linear(distinct_U: np.ndarray, num_centroids: int, held: np.ndarray) -> np.ndarray:
    """Space the centroids evenly; the one nearest to each held value moves onto it."""
    centroids_K = np.linspace(distinct_U[0], distinct_U[-1], num_centroids)
    free = np.ones(num_centroids, dtype=bool)
    for value in held:
        nearest = int(np.argmin(np.where(free, np.abs(centroids_K - value), np.inf)))
        centroids_K[nearest], free[nearest] = value, False
    return np.sort(centroids_K)


def _spread(
    distinct_U: np.ndarray, counts_U: np.ndarray, num_centroids: int, held: np.ndarray, seed: int
) -> np.ndarray:
    """Draw the centroids one after another, far from those that are there."""
    generator = np.random.default_rng(seed)
    chosen = list(held) or [generator.choice(distinct_U, p=counts_U / counts_U.sum())]
    squared_U = np.min([(distinct_U - centroid) ** 2 for centroid in chosen], axis=0)
    while len(chosen) < num_centroids:
        mass_U = counts_U * squared_U
        chosen.append(generator.choice(distinct_U, p=mass_U / mass_U.sum()))
        squared_U = np.minimum(squared_U, (distinct_U - chosen[-1]) ** 2)
    return np.sort(np.array(chosen))


def _lloyd(distinct_U: np.ndarray, counts_U: np.ndarray, centroids_K: np.ndarray, pinned_K: np.ndarray) -> np.ndarray:
    """Move every centroid to the mean of its values until none moves; one without values stays.

    The values are sorted, so a cluster is a run of them and its sum a difference of running sums.
    """
    num_before = np.concatenate([[0.0], np.cumsum(counts_U, dtype=np.float64)])
    sum_before = np.concatenate([[0.0], np.cumsum(counts_U * distinct_U)])
    for _ in range(_MAX_ITERATIONS):
        cuts = np.searchsorted(distinct_U, _borders(centroids_K), side="left")
        edges = np.concatenate([[0], cuts, [len(distinct_U)]])
        num_K, sum_K = np.diff(num_before[edges]), np.diff(sum_before[edges])
        fixed_K = pinned_K | (num_K == 0)
        moved_K = np.where(fixed_K, centroids_K, sum_K / np.where(fixed_K, 1.0, num_K))
        if np.array_equal(moved_K, centroids_K):
            break
        centroids_K = moved_K
    return centroids_K


def _borders(centroids_K: np.ndarray) -> np.ndarray:
    return np.asarray((centroids_K[1:] + centroids_K[:-1]) / 2)


def _nearest(distinct_U: np.ndarray, centroids_K: np.ndarray) -> np.ndarray:
    return np.searchsorted(_borders(centroids_K), distinct_U, side="right")
