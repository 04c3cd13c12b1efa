import math

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from tasks.decisions.window_rates import (
    difference_bounds,
    exact_bounds,
    excess_p_value,
    quantile_ratio_bounds,
    samples_for_quantile,
    wilson_bounds,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 30), (7, 50), (50, 50), (431, 500)])
def test_bounds_of_one_rate_agree_with_statsmodels(successes, trials):
    wilson = proportion_confint(successes, trials, alpha=0.1, method="wilson")
    exact = proportion_confint(successes, trials, alpha=0.1, method="beta")
    assert wilson_bounds(successes, trials, 0.05) == pytest.approx(wilson, abs=1e-9)
    ours = exact_bounds(successes, trials, 0.05)
    assert ours == pytest.approx((exact[0] if successes else 0.0, exact[1] if successes < trials else 1.0), abs=1e-9)


def test_difference_bounds_agree_with_statsmodels_and_newcombes_example():
    theirs = confint_proportions_2indep(430, 500, 900, 1000, method="newcomb", alpha=0.1)
    assert difference_bounds(430, 500, 900, 1000, 0.05) == pytest.approx(theirs, abs=1e-9)
    # Newcombe 1998, table II, example (a), method 10: 56/70 against 48/80
    assert difference_bounds(56, 70, 48, 80, 0.025) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_bounds(0, 0, 5, 9, 0.05) == (-1.0, 1.0)


def test_difference_bounds_hold_at_their_level():
    generator, runs, alpha = np.random.default_rng(1), 4000, 0.05
    window, reference = generator.binomial(300, 0.87, runs), generator.binomial(215, 0.9, runs)
    bounds = [difference_bounds(w, 300, r, 215, alpha) for w, r in zip(window, reference, strict=True)]
    limit = alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert np.mean([lower > -0.03 for lower, _ in bounds]) <= limit
    assert np.mean([upper < -0.03 for _, upper in bounds]) <= limit


@pytest.mark.parametrize(("successes", "trials", "rate"), [(3, 100, 0.01), (0, 20, 0.01), (12, 500, 0.011)])
def test_excess_p_value_agrees_with_scipy(successes, trials, rate):
    theirs = binomtest(successes, trials, rate, alternative="greater").pvalue
    assert excess_p_value(successes, trials, rate) == pytest.approx(theirs)
    lower, _ = exact_bounds(successes, trials, 0.01)
    assert (lower > rate) == (theirs < 0.01)


def test_excess_p_value_is_one_without_trials():
    assert excess_p_value(0, 0, 0.01) == 1.0


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_quantile_ratio_bounds_agree_with_a_bootstrap_of_the_rows(quantile):
    generator = np.random.default_rng(2)
    window, reference = 1.2 * generator.lognormal(0, 0.4, 400), generator.lognormal(0, 0.4, 600)
    logs = []
    for _ in range(4000):
        a, b = (np.sort(generator.choice(values, len(values))) for values in (window, reference))
        logs.append(math.log(a[math.ceil(quantile * 400) - 1] / b[math.ceil(quantile * 600) - 1]))
    slow = np.exp(np.quantile(logs, [0.05, 0.95]))
    assert quantile_ratio_bounds(window, reference, quantile, 0.05)[1:] == pytest.approx(slow, rel=0.02)


def test_quantile_ratio_bounds_are_exact_for_a_constant_ratio_of_constants():
    assert quantile_ratio_bounds(np.full(50, 3.0), np.full(80, 2.0), 0.95, 0.05) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(("quantile", "sizes"), [(0.5, (500, 1000)), (0.95, (500, 1000)), (0.99, (1000, 2000))])
def test_quantile_ratio_bounds_hold_at_their_level(quantile, sizes):
    generator, runs, alpha = np.random.default_rng(3), 500, 0.05
    above = below = 0
    for seed in range(runs):
        window, reference = (generator.lognormal(0, 0.5, num) for num in sizes)
        _, lower, upper = quantile_ratio_bounds(window, reference, quantile, alpha, num_resamples=1000, seed=seed)
        above += lower > 1.0
        below += upper < 1.0
    assert above <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert below <= 1.8 * runs * alpha  # a p99 of a thousand samples errs on the side that cannot alarm


def test_samples_for_quantile_asks_for_five_beyond_it():
    assert [samples_for_quantile(quantile) for quantile in (0.5, 0.95, 0.99)] == [10, 100, 500]
