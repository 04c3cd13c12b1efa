import math

import numpy as np
import pytest
from scipy.stats import beta, norm

from tasks.decisions.bootstrap import Doubled, doubled_means, samples_to_settle, unseen_weight, weighted_means

ALPHA = 0.05


def bounds(values: np.ndarray, weight: float, num_draws: int) -> tuple[float, float]:
    """The lower and the upper bound of the mean."""
    high, low = weighted_means(values[None], Doubled.of(values, weight), num_draws, seed=1)
    return float(np.quantile(low[0], ALPHA)), float(np.quantile(high[0], 1 - ALPHA))


def test_doubled_means_of_a_case_worked_by_hand():
    np.testing.assert_allclose(doubled_means(np.array([[1.0, 2.0, 6.0]])), [[10 / 4, 11 / 4, 15 / 4]])


def test_doubled_chooses_the_rows_that_move_the_statistic_most():
    assert Doubled.of(np.array([2.0, 1.0, 3.0, 5.0]), 1.5) == Doubled(highest=3, lowest=1, weight=1.5)


def test_unseen_weight_of_a_case_worked_by_hand():
    # the variance is carried by (1 + 1)^2 / (1 + 1) = 2 rows
    assert unseen_weight(np.array([-1.0, 0.0, 0.0, 1.0])) == 1 + 4 / 2


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_unseen_weight_is_larger_the_fewer_rows_decide(scale):
    one, normal = np.zeros(10_000), np.random.default_rng(0).standard_normal(10_000)
    one[0] = scale
    assert unseen_weight(one) == 1 + 4
    assert unseen_weight(scale * normal) == pytest.approx(1 + 4 * 3 / 10_000, rel=1e-4)
    assert unseen_weight(np.zeros(9)) == 1.0


@pytest.mark.parametrize(("successes", "num"), [(1, 20), (7, 20), (3, 150)])
def test_weighted_means_have_the_bounds_of_clopper_and_pearson_when_losses_are_0_or_1(successes, num):
    values = (np.arange(num) < successes).astype(np.float64)
    exact = beta.ppf(ALPHA, successes, num - successes + 1), beta.ppf(1 - ALPHA, successes + 1, num - successes)
    assert bounds(values, 1.0, 100_000) == pytest.approx(exact, rel=0.04)


def test_weighted_means_have_the_exact_tail_of_a_sum_of_exponentials():
    # P(sum of c_i E_i > 0) is, for different c_i, the sum over positive c_i of c_i / (c_i - c_j) over all other j
    values, weight, point = np.array([-1.0, 0.2, 0.5, 1.5, 4.0]), 2.5, 1.7
    scales = np.append(values - point, weight * (values.max() - point))
    exact = sum(
        math.prod(scale / (scale - other) for at, other in enumerate(scales) if at != position)
        for position, scale in enumerate(scales)
        if scale > 0
    )
    high, _ = weighted_means(values[None], Doubled(4, 0, weight), 200_000, seed=3)
    assert np.mean(high[0] > point) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 200_000))


def test_weighted_means_end_where_the_saddlepoint_of_empirical_likelihood_says():
    # Lugannani & Rice (1980) for the same sum: its saddlepoint is the multiplier of Owen's empirical likelihood
    values, weight = np.random.default_rng(2).exponential(size=200), 1.4
    upper = bounds(values, weight, 50_000)[1]
    scales = np.append(values - upper, weight * (values.max() - upper))
    left, right = 1 / scales.min() * (1 - 1e-9), 1 / scales.max() * (1 - 1e-9)
    for _ in range(200):
        middle = (left + right) / 2
        left, right = (middle, right) if np.sum(scales / (1 - middle * scales)) < 0 else (left, middle)
    tilted = 1 - middle * scales
    root = np.sign(middle) * np.sqrt(2 * np.log(tilted).sum())
    other = middle * np.sqrt(np.sum((scales / tilted) ** 2))
    tail = norm.sf(root) + norm.pdf(root) * (1 / other - 1 / root)
    assert tail == pytest.approx(ALPHA, abs=0.004)


def test_weighted_means_are_the_same_for_a_seed_and_use_the_same_weights_for_all_losses():
    losses = np.random.default_rng(5).exponential(size=(2, 300))
    first, again = (weighted_means(losses, Doubled(3, 4, 1.5), 50, seed=6) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    high, _ = weighted_means(np.stack([losses[0], 2 * losses[0]]), Doubled(3, 4, 1.5), 50, seed=6)
    np.testing.assert_allclose(high[1], 2 * high[0])


def test_weighted_means_come_in_chunks_when_there_are_many():
    high, low = weighted_means(np.ones((1, 1_500_000)), Doubled(0, 0, 1.0), 5, seed=0)
    assert high.shape == low.shape == (1, 5)
    np.testing.assert_allclose(high, 1.0)


def test_samples_to_settle_brings_errors_and_shift_to_the_distance():
    needed = samples_to_settle(400, 0.02, 0.03, ALPHA, 0.8, shift=0.01)
    shrunk = 400 / needed
    errors = 0.02 * (norm.isf(ALPHA) + norm.isf(0.2))
    assert errors * np.sqrt(shrunk) + 0.01 * shrunk == pytest.approx(0.03, rel=0.01)
    assert needed > samples_to_settle(400, 0.02, 0.03, ALPHA, 0.8)
