import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from tasks.decisions.bootstrap import acceleration, corrected_bounds, left_out_means, resampled_means

ALPHA = 0.05


def drawn(values: np.ndarray, alpha: float = ALPHA, num_resamples: int = 20_000) -> tuple[float, float]:
    draws = resampled_means(values[None], num_resamples, seed=1)[0]
    accelerated = acceleration(left_out_means(values[None])[0])
    return corrected_bounds(draws, float(values.mean()), accelerated, len(values), alpha)


def test_left_out_means_of_a_case_worked_by_hand():
    np.testing.assert_allclose(left_out_means(np.array([[1.0, 2.0, 6.0]])), [[4.0, 3.5, 1.5]])


def test_acceleration_of_a_mean_is_a_sixth_of_its_skewness():
    values = np.random.default_rng(0).exponential(size=400)
    centred = values - values.mean()
    skewness = (centred**3).mean() / (centred**2).mean() ** 1.5
    assert acceleration(left_out_means(values[None])[0]) == pytest.approx(skewness / 6 / np.sqrt(400))


def test_acceleration_counts_equal_samples_together():
    values = np.array([0.0, 0.0, 0.0, 1.0, 5.0])
    each, kinds = left_out_means(values[None])[0], left_out_means(values[None])[0][2:]
    assert acceleration(kinds, np.array([3, 1, 1])) == pytest.approx(acceleration(each))


def test_acceleration_is_none_of_equal_samples_and_a_sixth_when_one_decides_all():
    assert acceleration(np.full(9, 0.25)) == 0.0
    assert acceleration(np.array([np.inf, 1.0, 1.0])) == pytest.approx(1 / 6)
    one = np.zeros(10_000)
    one[0] = 1.0
    assert acceleration(left_out_means(one[None])[0]) == pytest.approx(1 / 6, rel=1e-3)


@pytest.mark.parametrize("num", [60, 400])
def test_corrected_bounds_are_scipys_but_for_the_expansion(num):
    values = np.random.default_rng(2).exponential(size=num)
    theirs = bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * ALPHA, n_resamples=20_000, method="BCa", rng=3
    ).confidence_interval
    lower, upper = drawn(values)
    error = values.std(ddof=1) / np.sqrt(num)
    # the expansion moves a bound by 1.3 % of the error at 400 samples and by 9 % at 60; the rest is of 20,000 draws
    assert lower == pytest.approx(theirs.low, abs=(0.05 if num == 400 else 0.14) * error)
    assert upper == pytest.approx(theirs.high, abs=(0.05 if num == 400 else 0.14) * error)
    percentile = np.quantile(resampled_means(values[None], 20_000, seed=1)[0], 1 - ALPHA)
    assert upper - percentile > 0.08 * error


def test_corrected_bounds_are_those_of_students_t_when_nothing_is_skewed():
    half = np.abs(np.random.default_rng(4).standard_normal(15))
    values = np.concatenate([half, -half])
    lower, upper = drawn(values, num_resamples=100_000)
    assert (lower, upper) == pytest.approx((-upper, upper), abs=0.02)
    assert upper == pytest.approx(1.699 * values.std(ddof=1) / np.sqrt(30), rel=0.03)


def test_corrected_bounds_keep_their_size_where_percentiles_do_not():
    # the upper bound of a skewed mean: where it is too low, a bad candidate passes
    generator, runs, num, truth = np.random.default_rng(5), 1500, 100, 1.0
    below = {"corrected": 0, "percentile": 0}
    for _ in range(runs):
        values = generator.exponential(size=num)
        draws = resampled_means(values[None], 400, seed=0)[0]
        accelerated = acceleration(left_out_means(values[None])[0])
        below["corrected"] += corrected_bounds(draws, values.mean(), accelerated, num, ALPHA)[1] < truth
        below["percentile"] += np.quantile(draws, 1 - ALPHA) < truth
    assert below["corrected"] <= runs * ALPHA + 3 * np.sqrt(runs * ALPHA * (1 - ALPHA))
    assert below["corrected"] < 0.9 * below["percentile"]


def test_corrected_bounds_of_equal_draws_are_that_value():
    assert corrected_bounds(np.full(500, 0.5), 0.5, 0.0, 200, ALPHA) == (0.5, 0.5)


def test_corrected_bounds_give_infinity_when_the_bound_lies_beyond_every_draw():
    draws = np.concatenate([np.zeros(990), np.full(10, np.inf)])
    assert corrected_bounds(draws, 0.0, 1 / 6, 200, norm.sf(8.0))[1] == np.inf
