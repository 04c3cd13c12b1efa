import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from tasks.contracts.verdict import Verdict
from tasks.decisions.behaviour_checks import brier_check, robustness_checks
from tasks.decisions.calibration import brier_scores
from tasks.decisions.gate_policy import Certainty

SURE = Certainty(alpha=0.05, power=0.8, wanted_resamples=400)


def wrong(num: int, share: float) -> np.ndarray:
    """Exactly `share` of the rows are wrong, spread evenly."""
    rows = np.zeros(num, dtype=bool)
    rows[np.linspace(0, num - 1, round(share * num)).astype(int)] = True
    return rows


def test_robustness_checks_compare_what_each_model_loses_itself():
    # the candidate is worse on clean and on noisy rows, but loses no more to noise than the baseline does
    candidate = {"": wrong(2000, 0.10), "noise": wrong(2000, 0.20)}
    baseline = {"": wrong(2000, 0.05), "noise": wrong(2000, 0.15)}
    (check,) = robustness_checks(candidate, baseline, 0.05, SURE, statistic="mean")
    assert check.name == "robustness:noise"
    assert check.estimate == pytest.approx(0.0)
    assert check.verdict is Verdict.PASS
    assert "error rate 0.1 to 0.2; the baseline's 0.05 to 0.15" in check.detail


def test_robustness_checks_fail_a_candidate_that_only_noise_shows():
    candidate = {"": wrong(2000, 0.05), "noise": wrong(2000, 0.40), "blur": wrong(2000, 0.06)}
    baseline = {"": wrong(2000, 0.05), "noise": wrong(2000, 0.15), "blur": wrong(2000, 0.06)}
    noise, blur = robustness_checks(candidate, baseline, 0.05, SURE, statistic="mean")
    assert (noise.verdict, blur.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert noise.estimate == pytest.approx(0.25)
    assert 0.05 < noise.bound < 0.25


def test_robustness_checks_state_the_excess_of_the_rmse_as_a_share_of_the_baselines():
    rows = np.random.default_rng(0).chisquare(1, 3000)
    rows /= rows.mean()  # squared errors with an RMSE of 1
    candidate, baseline = {"": 1.21 * rows, "noise": 4.0 * rows}, {"": rows, "noise": 2.25 * rows}
    (check,) = robustness_checks(candidate, baseline, 0.1, SURE, statistic="root_mean")
    assert check.estimate == pytest.approx((2.0 - 1.1) - (1.5 - 1.0))
    assert check.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("candidate", "baseline", "reason"),
    [
        ({"": wrong(200, 0.1)}, {"": wrong(200, 0.1)}, "no outputs on corrupted rows"),
        ({"": wrong(200, 0.1)}, {"": wrong(200, 0.1), "noise": wrong(200, 0.1)}, "the candidate has no outputs"),
        (
            {"": np.ones(200), "noise": np.ones(200)},
            {"": np.ones(200), "noise": np.full(200, np.inf)},
            "not finite",
        ),
        ({"": np.ones(200), "noise": np.ones(200)}, {"": np.zeros(200), "noise": np.ones(200)}, "makes no error"),
        ({"": np.ones(99), "noise": np.ones(99)}, {"": np.ones(99), "noise": np.ones(99)}, "too few rows"),
    ],
)
def test_robustness_checks_are_inconclusive_when_there_is_nothing_to_compare(candidate, baseline, reason):
    (check,) = robustness_checks(candidate, baseline, 0.05, SURE, statistic="root_mean")
    assert check.verdict is Verdict.INCONCLUSIVE
    assert reason in check.detail


def test_robustness_checks_never_pass_a_candidate_that_breaks_under_noise():
    broken = np.ones(500)
    broken[7] = np.inf
    (check,) = robustness_checks(
        {"": np.ones(500), "noise": broken},
        {"": np.ones(500), "noise": np.ones(500)},
        0.05,
        SURE,
        statistic="root_mean",
    )
    assert check.verdict is not Verdict.PASS


def test_brier_scores_equal_an_independent_implementation():
    generator = np.random.default_rng(4)
    logits = generator.standard_normal((300, 5)).astype(np.float32)
    labels = generator.integers(0, 5, 300)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = brier_score_loss(labels, probabilities, labels=range(5), scale_by_half=False)
    assert brier_scores(logits, labels).mean() == pytest.approx(expected)


def test_brier_check_fails_confidences_that_became_dishonest_with_the_same_answers():
    generator = np.random.default_rng(5)
    logits = generator.standard_normal((3000, 3)).astype(np.float32)
    labels = (
        generator.random((3000, 1)) > np.cumsum(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)
    ).sum(1)
    check = brier_check(20 * logits, logits, labels, 0.02, SURE)
    assert check.verdict is Verdict.FAIL
    assert brier_check(logits, logits, labels, 0.02, SURE).verdict is Verdict.PASS
