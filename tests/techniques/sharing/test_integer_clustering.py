import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from tasks.techniques.sharing.integer_clustering import best_integers


def cost(values: np.ndarray, mass: np.ndarray, mapped: np.ndarray) -> float:
    return float((mass * (values - mapped) ** 2).sum())


def brute_force(values: np.ndarray, mass: np.ndarray, num_centroids: int) -> float:
    """Try every set of integers that has the zero where the values have it."""
    candidates = range(values.min(), values.max() + 1)
    best = np.inf
    for chosen in itertools.combinations(candidates, min(num_centroids, len(candidates))):
        if 0 in values and 0 not in chosen:
            continue
        distance = np.abs(values[:, None] - np.array(chosen))
        distance[values == 0] = 0
        best = min(best, float((mass * distance.min(axis=1) ** 2).sum()))
    return best


@given(
    values=st.lists(st.integers(-8, 8), min_size=1, max_size=9, unique=True),
    num_centroids=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_best_integers_cost_no_more_than_any_other_choice(values, num_centroids, seed):
    array = np.sort(np.array(values))
    mass = np.random.default_rng(seed).uniform(0.1, 5.0, len(array))
    mapped = best_integers(array, mass, num_centroids)
    assert len(np.unique(mapped)) <= num_centroids
    assert cost(array, mass, mapped) == pytest.approx(brute_force(array, mass, num_centroids), rel=1e-9, abs=1e-9)
    assert (mapped[array == 0] == 0).all()


def test_best_integers_beats_lloyd_on_a_histogram_of_weights():
    weights = np.clip(np.rint(np.random.default_rng(0).laplace(0, 20, 5000)), -127, 127).astype(np.int64)
    values, counts = np.unique(weights, return_counts=True)
    lloyd = KMeans(16, n_init=5, random_state=0).fit(values[:, None], sample_weight=counts)
    rounded = np.rint(lloyd.cluster_centers_[:, 0])
    lloyd_cost = cost(values, counts, rounded[np.abs(values[:, None] - rounded).argmin(axis=1)])
    assert cost(values, counts, best_integers(values, counts, 16)) <= 1.01 * lloyd_cost  # it also holds the zero


def test_best_integers_changes_nothing_when_there_are_few_values():
    values = np.array([-127, 0, 3])
    np.testing.assert_array_equal(best_integers(values, np.ones(3), 3), values)
