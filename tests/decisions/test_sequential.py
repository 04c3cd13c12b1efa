import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import binom, halfnorm

from tasks.decisions.sequential import (
    binomial_log_e,
    crossing,
    drift_log_e,
    fewer_log_e,
    quantile_bounds,
    rate_lower_bound,
    rate_upper_bound,
)


def test_binomial_log_e_equals_the_value_worked_by_hand():
    # prior Beta(1, 1), 2 of 2 successes against 1/2: integral of p^2 is 1/3, over 1/4
    assert float(binomial_log_e(2, 2, 0.5, (1.0, 1.0))) == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("trials", [1, 7, 60])
def test_binomial_log_e_has_mean_one_under_the_null(rate, trials):
    counts = np.arange(trials + 1)
    mean = binom.pmf(counts, trials, rate) @ np.exp(binomial_log_e(counts, trials, rate))
    assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("true_rate", [0.3, 0.35, 0.6, 0.99])
def test_fewer_log_e_has_mean_one_at_most_under_the_whole_null(true_rate):
    counts = np.arange(41)
    mean = binom.pmf(counts, 40, true_rate) @ np.exp(fewer_log_e(counts, 40, 0.3))
    assert mean <= 1.0 + 1e-9
    assert mean == pytest.approx(1.0) or true_rate > 0.3


def test_fewer_log_e_equals_the_integral_over_the_cut_prior():
    successes, trials, rate, (a, b) = 3, 30, 0.3, (2.0, 5.0)
    density = quad(lambda p: p ** (a - 1) * (1 - p) ** (b - 1), 0, rate)[0]
    likelihood = quad(lambda p: p ** (successes + a - 1) * (1 - p) ** (trials - successes + b - 1), 0, rate)[0]
    expected = math.log(likelihood / density) - successes * math.log(rate) - (trials - successes) * math.log(1 - rate)
    assert float(fewer_log_e(successes, trials, rate, (a, b))) == pytest.approx(expected)


def test_drift_log_e_equals_the_integral_over_half_normal_drifts():
    score, information, scale = 35.0, 900.0, 0.05

    def integrand(theta: float) -> float:
        return halfnorm.pdf(theta, scale=scale) * math.exp(theta * score - 0.5 * theta**2 * information)

    expected = math.log(quad(integrand, 0.0, 1.0, points=[0.04], limit=200)[0])
    assert drift_log_e(score, information, (scale,)) == pytest.approx(expected, rel=1e-6)


def test_drift_log_e_averages_its_scales():
    parts = [math.exp(drift_log_e(20.0, 400.0, (scale,))) for scale in (0.02, 0.2)]
    assert math.exp(drift_log_e(20.0, 400.0, (0.02, 0.2))) == pytest.approx(np.mean(parts))


def test_rate_upper_bound_equals_the_value_worked_by_hand_when_nothing_succeeded():
    # B(1/2, n + 1/2) / (B(1/2, 1/2) F(p)) = (1 - p)^n / alpha, F the prior's mass below p; nearly all of the
    # posterior lies below p
    num, alpha = 200, 0.05
    bound = rate_upper_bound(0, num, alpha)
    cut = math.log(2 / math.pi * math.asin(math.sqrt(bound)))
    expected = 1 - math.exp((betaln(0.5, num + 0.5) - betaln(0.5, 0.5) - cut + math.log(alpha)) / num)
    assert bound == pytest.approx(expected, rel=5e-3)
    assert rate_lower_bound(num, num, alpha) == pytest.approx(1 - bound)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (1, 1), (3, 3)])
def test_rate_upper_bound_is_1_when_there_is_nothing_else_to_say(successes, trials):
    assert rate_upper_bound(successes, trials, 0.05) == 1.0


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.5])
def test_rate_bounds_hold_at_200_looks_together(rate):
    looks, runs, alpha = 200, 2000, 0.05
    trials = 20 * np.arange(1, looks + 1)
    successes = np.random.default_rng(4).binomial(20, rate, size=(runs, looks)).cumsum(axis=1)
    # the upper bound lies below the rate exactly when the test of the rate rejects
    below = (fewer_log_e(successes, trials, rate) >= -math.log(alpha)).any(axis=1).mean()
    above = (fewer_log_e(trials - successes, trials, 1 - rate) >= -math.log(alpha)).any(axis=1).mean()
    assert max(below, above) <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_quantile_bounds_hold_at_every_look_together(quantile):
    generator = np.random.default_rng(5)
    truth = math.exp(0.5 * (0.0 if quantile == 0.5 else 1.6448536))
    wrong_lower = wrong_upper = 0
    for _ in range(200):
        samples = generator.lognormal(0.0, 0.5, 2000)
        bounds = [quantile_bounds(samples[:num], quantile, 0.05) for num in range(50, 2001, 50)]
        wrong_lower += any(lower > truth for lower, _ in bounds)
        wrong_upper += any(upper < truth for _, upper in bounds)
    assert max(wrong_lower, wrong_upper) <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_quantile_bounds_tighten_around_the_sample_quantile():
    samples = np.random.default_rng(6).exponential(1.0, 5000)
    lower, upper = quantile_bounds(samples, 0.5, 0.05)
    assert lower < np.quantile(samples, 0.5) < upper
    assert upper - lower < 0.2


def test_quantile_bounds_are_infinite_when_samples_are_too_few():
    assert quantile_bounds(np.empty(0), 0.5, 0.05) == (-math.inf, math.inf)
    assert quantile_bounds(np.array([1.0, 2.0]), 0.95, 0.05) == (-math.inf, math.inf)


def test_crossing_returns_the_end_when_even_that_is_not_rejected():
    assert crossing(lambda value: 0.0, 0.0, 1.0, 0.05) == 1.0
    assert crossing(lambda value: 10.0 * value, 0.0, 1.0, 0.05) == pytest.approx(-math.log(0.05) / 10.0, abs=1e-5)
