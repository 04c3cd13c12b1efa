import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar

from tasks.contracts.verdict import Verdict
from tasks.decisions.noninferiority import (
    PairedTable,
    judge_difference,
    mcnemar_p_value,
    rows_needed,
    score_bounds,
    score_statistic,
)

tables = st.builds(
    PairedTable,
    both_right=st.integers(0, 500),
    only_baseline=st.integers(0, 40),
    only_candidate=st.integers(0, 40),
    both_wrong=st.integers(1, 50),
)


def table(lost: int, won: int, total: int) -> PairedTable:
    return PairedTable(total - lost - won, lost, won, 0)


def test_count_sorts_rows_into_the_table():
    baseline = np.array([True, True, True, False, False, False])
    candidate = np.array([True, True, False, True, False, False])
    assert PairedTable.count(baseline, candidate) == PairedTable(2, 1, 1, 2)


def test_score_statistic_equals_the_value_worked_by_hand():
    # n = 100, lost 2, won 1, difference -0.05: A = 200, B = -3 + 201 (-0.05) = -13.05, C = 0.105,
    # q = (13.05 + sqrt(170.3025 - 84)) / 400 = 0.0558498, variance = 2q - 0.0525 = 0.0591996
    assert score_statistic(table(2, 1, 100), -0.05) == pytest.approx(0.04 * math.sqrt(100 / 0.0591996), rel=1e-5)


@pytest.mark.parametrize("num_rows", [50, 300, 5000])
def test_score_bounds_have_a_closed_form_when_no_row_is_discordant(num_rows):
    # the statistic becomes sqrt(n d / (1 - d)), so that d = z^2 / (n + z^2)
    z = norm.ppf(0.95)
    expected = z**2 / (num_rows + z**2)
    assert score_bounds(table(0, 0, num_rows), 0.05) == pytest.approx((-expected, expected), abs=1e-9)


@given(tables, st.floats(-0.5, 0.5))
@settings(max_examples=150, deadline=None)
def test_score_statistic_uses_the_restricted_maximum_likelihood(counts, difference):
    if abs(difference) < 1e-3 or counts.only_baseline + counts.only_candidate == 0:
        return
    n, lost, won = counts.total, counts.only_baseline, counts.only_candidate

    def negative_log_likelihood(share_lost: float) -> float:
        share_won = share_lost + difference
        rest = 1.0 - share_lost - share_won
        terms = [(lost, share_lost), (won, share_won), (n - lost - won, rest)]
        return -sum(count * math.log(share) for count, share in terms if count)

    low, high = max(0.0, -difference), (1.0 - difference) / 2.0
    best = minimize_scalar(negative_log_likelihood, bounds=(low + 1e-9, high - 1e-9), options={"xatol": 1e-12}).x
    variance = 2.0 * best + difference - difference**2
    expected = (counts.difference - difference) * math.sqrt(n / variance)
    assert score_statistic(counts, difference) == pytest.approx(expected, rel=2e-3, abs=2e-3)


@given(tables)
@settings(max_examples=150, deadline=None)
def test_score_bounds_solve_the_score_equation_and_enclose_the_estimate(counts):
    lower, upper = score_bounds(counts, 0.05)
    assert -1.0 <= lower <= counts.difference <= upper <= 1.0
    assert score_statistic(counts, lower) == pytest.approx(norm.ppf(0.95), abs=1e-4)
    assert score_statistic(counts, upper) == pytest.approx(norm.ppf(0.05), abs=1e-4)


@given(tables)
def test_score_bounds_swap_when_the_models_swap(counts):
    swapped = PairedTable(counts.both_right, counts.only_candidate, counts.only_baseline, counts.both_wrong)
    lower, upper = score_bounds(counts, 0.05)
    assert score_bounds(swapped, 0.05) == pytest.approx((-upper, -lower), abs=1e-6)


def test_score_bounds_reach_the_end_when_every_row_is_lost():
    lower, upper = score_bounds(PairedTable(0, 20, 0, 0), 0.05)
    z = norm.ppf(0.95)
    assert lower == -1.0
    assert upper == pytest.approx(-1.0 + 2.0 * z**2 / (20 + z**2))


@pytest.mark.parametrize(
    ("lost", "won", "total", "verdict"),
    [
        (3, 3, 3000, Verdict.PASS),
        (90, 10, 3000, Verdict.FAIL),
        (4, 2, 400, Verdict.INCONCLUSIVE),
        (0, 0, 50, Verdict.INCONCLUSIVE),
    ],
)
def test_judge_difference_is_three_valued(lost, won, total, verdict):
    outcome = judge_difference(table(lost, won, total), 0.01, 0.05, 0.8)
    assert outcome.verdict is verdict
    assert (outcome.lower > -0.01) == (outcome.p_value < 0.05)
    assert (outcome.upper < -0.01) == (outcome.p_value_worse < 0.05)
    assert (outcome.num_rows_needed is not None) == (verdict is Verdict.INCONCLUSIVE)
    if outcome.num_rows_needed is not None:
        assert outcome.num_rows_needed > total


def test_judge_difference_needs_no_finite_number_of_rows_when_the_estimate_is_the_margin():
    outcome = judge_difference(table(5, 1, 400), 0.01, 0.05, 0.8)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.num_rows_needed is None


@given(tables)
def test_mcnemar_p_value_equals_statsmodels(counts):
    cells = [[counts.both_right, counts.only_baseline], [counts.only_candidate, counts.both_wrong]]
    assert mcnemar_p_value(counts) == pytest.approx(mcnemar(cells, exact=True).pvalue, abs=1e-12)


def exact_size(num_rows: int, discordance: float, margin: float) -> tuple[float, float]:
    """Probabilities of PASS and of FAIL at alpha 0.05 when the true drop is exactly the margin."""
    p_lost, p_won = (discordance + margin) / 2.0, (discordance - margin) / 2.0
    passes = fails = 0.0
    for lost in range(int(binom.ppf(1.0 - 1e-7, num_rows, p_lost)) + 1):
        won = np.arange(int(binom.ppf(1.0 - 1e-7, num_rows - lost, p_won / (1.0 - p_lost))) + 1)
        weight = binom.pmf(lost, num_rows, p_lost) * binom.pmf(won, num_rows - lost, p_won / (1.0 - p_lost))
        statistics = np.array([score_statistic(table(lost, int(one), num_rows), -margin) for one in won])
        passes += weight[statistics > norm.ppf(0.95)].sum()
        fails += weight[statistics < norm.ppf(0.05)].sum()
    return passes, fails


@pytest.mark.parametrize("num_rows", [100, 360, 1000])
@pytest.mark.parametrize(("discordance", "margin"), [(0.02, 0.01), (0.05, 0.01), (0.05, 0.03), (0.1, 0.05)])
def test_judge_difference_keeps_its_size_at_the_margin(num_rows, discordance, margin):
    passes, fails = exact_size(num_rows, discordance, margin)
    assert passes <= 0.055  # the worst of 100 rows; 0.050 from 360 rows on
    assert fails <= 0.09  # skewed tables of few rows; a wrong FAIL never lets a bad model through


def simulated_passes(num_rows: int, discordance: float, drop: float, margin: float, runs: int, seed: int) -> float:
    shares = [(discordance + drop) / 2.0, (discordance - drop) / 2.0, 1.0 - discordance]
    draws = np.random.default_rng(seed).multinomial(num_rows, shares, size=runs)
    statistics = [score_statistic(table(int(lost), int(won), num_rows), -margin) for lost, won, _ in draws]
    return float(np.mean(np.array(statistics) > norm.ppf(0.95)))


def test_judge_difference_passes_at_the_margin_in_5_percent_of_simulated_runs_at_most():
    assert simulated_passes(1240, 0.02, 0.01, 0.01, runs=2000, seed=1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("discordance", "drop", "margin"), [(0.02, 0.0, 0.01), (0.05, 0.0, 0.01), (0.05, 0.01, 0.03), (0.1, 0.0, 0.05)]
)
def test_rows_needed_gives_the_stated_power(discordance, drop, margin):
    num_rows = rows_needed(discordance, drop, margin, 0.05, 0.8)
    assert num_rows is not None
    assert simulated_passes(num_rows, discordance, drop, margin, runs=2000, seed=2) == pytest.approx(0.8, abs=0.05)


def test_rows_needed_is_near_the_textbook_formula():
    # (1.645 + 0.842)^2 discordance / margin^2, which takes the variance at the margin for that at no difference
    assert rows_needed(0.05, 0.0, 0.01, 0.05, 0.8) == pytest.approx(3091, rel=0.03)
    assert rows_needed(0.02, 0.0, 0.01, 0.05, 0.8) == pytest.approx(1237, rel=0.15)


def test_rows_needed_works_on_both_sides_of_the_margin_and_not_at_it():
    assert rows_needed(0.06, 0.05, 0.01, 0.05, 0.8) < rows_needed(0.06, 0.02, 0.01, 0.05, 0.8)
    assert rows_needed(0.02, 0.01, 0.01, 0.05, 0.8) is None


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [360, 1240, 3100])
def test_judge_difference_keeps_its_size_in_10000_simulated_runs(num_rows):
    assert simulated_passes(num_rows, 0.02, 0.01, 0.01, runs=10_000, seed=3) <= 0.05 + 3 * math.sqrt(
        0.05 * 0.95 / 10_000
    )
