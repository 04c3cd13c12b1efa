import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from tasks.techniques.sharing.clustering import cluster

GENERATOR = np.random.default_rng(0)
WEIGHTS = np.concatenate([GENERATOR.normal(0, 0.05, 3000), GENERATOR.normal(0.4, 0.1, 300)]).astype(np.float32)


def test_cluster_finds_the_means_as_by_hand():
    clusters = cluster(np.array([[0.0, 1.0, 2.0], [10.0, 12.0, 14.0]]), 2, initialisation="linear", seed=0)
    np.testing.assert_array_equal(clusters.centroids_K, [1.0, 12.0])
    np.testing.assert_array_equal(clusters.labels, [[0, 0, 0], [1, 1, 1]])
    assert clusters.squared_error == 2 + 8


@pytest.mark.parametrize("num_centroids", [2, 8, 16])
def test_cluster_agrees_with_scikit_learn_from_the_same_start(num_centroids):
    start = np.linspace(WEIGHTS.min(), WEIGHTS.max(), num_centroids)[:, None]
    reference = KMeans(num_centroids, init=start, n_init=1, tol=0, max_iter=2000, algorithm="lloyd")
    reference.fit(WEIGHTS[:, None].astype(np.float64))
    clusters = cluster(WEIGHTS, num_centroids, initialisation="linear", seed=0)
    np.testing.assert_allclose(clusters.centroids_K, np.sort(reference.cluster_centers_[:, 0]), rtol=1e-9)
    assert clusters.squared_error == pytest.approx(reference.inertia_, rel=1e-9)


def test_cluster_from_drawn_centroids_is_as_good_as_scikit_learn_s_drawn_ones():
    reference = np.mean([KMeans(8, n_init=1, random_state=s).fit(WEIGHTS[:, None]).inertia_ for s in range(5)])
    found = np.mean([cluster(WEIGHTS, 8, initialisation="kmeans++", seed=s).squared_error for s in range(5)])
    assert found < 1.1 * reference


def test_linear_start_keeps_the_rare_large_weights_better_than_a_drawn_one():
    weights = np.concatenate([GENERATOR.normal(0, 0.05, 100_000), [1.0, -1.0]])
    linear, drawn = (cluster(weights, 16, initialisation=start, seed=0) for start in ("linear", "kmeans++"))
    assert np.abs(linear.centroids_K[linear.labels[-2:]]).min() > 0.99
    assert drawn.squared_error < linear.squared_error


@given(
    values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60),
    num_centroids=st.integers(3, 12),
    initialisation=st.sampled_from(["linear", "kmeans++"]),
)
def test_cluster_gives_each_value_its_nearest_centroid_and_keeps_pinned_values(values, num_centroids, initialisation):
    array = np.array([*values, 0.0, 1.0], np.float32)
    clusters = cluster(array, num_centroids, initialisation=initialisation, seed=1, pinned=(-1.0, 0.0, 1.0))
    distance = np.abs(array[:, None].astype(np.float64) - clusters.centroids_K)
    chosen = distance[np.arange(len(array)), clusters.labels]
    np.testing.assert_allclose(chosen, distance.min(axis=1), atol=1e-12)
    assert len(clusters.centroids_K) == num_centroids
    assert (np.diff(clusters.centroids_K) >= 0).all()
    held = np.isin(array, [-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(clusters.centroids_K[clusters.labels[held]], array[held])
    assert clusters.pinned_K[clusters.labels[held]].all()
    if len(np.unique(array)) <= num_centroids:
        np.testing.assert_array_equal(clusters.centroids_K[clusters.labels], array)
        assert clusters.squared_error == 0


def test_cluster_is_the_same_for_the_same_seed():
    first, second = (cluster(WEIGHTS, 16, initialisation="kmeans++", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.centroids_K, second.centroids_K)
    np.testing.assert_array_equal(first.labels, second.labels)
