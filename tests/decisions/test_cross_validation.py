import math

import numpy as np
import pytest
from scipy import stats

from tasks.contracts.evaluation import SplitOutcome
from tasks.contracts.verdict import Verdict
from tasks.decisions.cross_validation import Losses, cross_validation_check
from tasks.decisions.gate_policy import Certainty

SURE = Certainty(alpha=0.05, power=0.8, wanted_resamples=2000)


def outcomes(candidate: list[float | None], baseline: float = 0.9, failure: str = "") -> list[SplitOutcome]:
    return [
        SplitOutcome(seed=seed, num_train=600, num_test=200, baseline=baseline, candidate=reached, failure=failure)
        for seed, reached in enumerate(candidate, start=1)
    ]


def test_bounds_equal_the_values_worked_by_hand() -> None:
    # losses 0, 0.01, 0.02: mean 0.01, standard deviation 0.01; t(0.95, 2) = 2.919986
    lower, upper = Losses((0.0, 0.01, 0.02), test_share=1 / 3).bounds(0.05)
    reach = 2.919986 * 0.01 * math.sqrt(1 / 3 + 1 / 3)
    assert (lower, upper) == pytest.approx((0.01 - reach, 0.01 + reach), rel=1e-6)


def test_bounds_are_those_of_scipys_t_test_when_splits_share_no_rows() -> None:
    values = tuple(np.random.default_rng(0).normal(0.01, 0.004, 7))
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert Losses(values, test_share=0.0).bounds(0.05) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_bounds_err_as_often_as_they_say_when_splits_overlap() -> None:
    """Differences of overlapping splits: a common part with share n_test / (n_test + n_train) of the variance."""
    rng, runs, num, test_share = np.random.default_rng(1), 20_000, 5, 0.25
    common = test_share / (1 + test_share)
    losses = math.sqrt(common) * rng.normal(size=(runs, 1)) + math.sqrt(1 - common) * rng.normal(size=(runs, num))
    mean, spread = losses.mean(axis=1), losses.std(axis=1, ddof=1)
    corrected = sum(Losses(tuple(row), test_share).bounds(0.05)[1] < 0 for row in losses[:4000]) / 4000
    plain = float(np.mean(mean + stats.t.ppf(0.95, num - 1) * spread / math.sqrt(num) < 0))
    assert corrected == pytest.approx(0.05, abs=0.014)  # four standard errors
    assert plain > 0.09  # what the correction is for


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        ([0.899, 0.898, 0.9, 0.899, 0.901], Verdict.PASS),
        ([0.85, 0.852, 0.848, 0.851, 0.849], Verdict.FAIL),
        ([0.9, 0.86, 0.91, 0.89, 0.87], Verdict.INCONCLUSIVE),
    ],
)
def test_cross_validation_check_decides_by_the_bound(candidate: list[float | None], verdict: Verdict) -> None:
    check = cross_validation_check(outcomes(candidate), 0.02, SURE, relative=False)
    assert check.verdict is verdict
    assert check.num_rows == 1000
    assert check.bound is not None
    assert (check.bound < 0.02) is (verdict is Verdict.PASS)


def test_cross_validation_check_takes_the_increase_of_an_error_as_a_share() -> None:
    check = cross_validation_check(outcomes([2.02, 2.02, 2.04], baseline=2.0), 0.05, SURE, relative=True)
    assert check.estimate == pytest.approx((0.01 + 0.01 + 0.02) / 3)
    assert check.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("splits", "relative", "reason"),
    [
        (outcomes([0.9, 0.9]), False, "2 data splits; 3 are needed"),
        (outcomes([0.9, None, 0.9], failure="it diverged"), False, "the chain failed on data split"),
        (outcomes([0.9, math.nan, 0.9]), False, "not finite"),
        (outcomes([0.1, 0.1, 0.1], baseline=0.0), True, "a baseline without any error"),
    ],
)
def test_cross_validation_check_is_inconclusive_when_nothing_can_be_said(
    splits: list[SplitOutcome], relative: bool, reason: str
) -> None:
    check = cross_validation_check(splits, 0.02, SURE, relative=relative)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert reason in check.detail


def test_cross_validation_check_says_how_many_splits_would_settle_it() -> None:
    values = [0.895, 0.875, 0.9, 0.885]
    check = cross_validation_check(outcomes(values), 0.03, SURE, relative=False)
    assert check.verdict is Verdict.INCONCLUSIVE
    losses = Losses(tuple(0.9 - value for value in values), 1 / 3)
    needed = losses.splits_to_settle(0.03, 0.05)
    assert needed is not None
    assert f"about {needed} splits would settle it" in check.detail
    spread = np.std(losses.values, ddof=1)
    for num, settled in ((needed - 1, False), (needed, True)):
        reach = stats.t.ppf(0.95, num - 1) * spread * math.sqrt(1 / num + 1 / 3)
        assert (np.mean(losses.values) + reach < 0.03) is np.bool_(settled)


def test_cross_validation_check_says_so_when_no_number_of_splits_would_do() -> None:
    check = cross_validation_check(outcomes([0.95, 0.8, 0.9, 0.87]), 0.03, SURE, relative=False)
    assert "more splits would hardly settle it" in check.detail
