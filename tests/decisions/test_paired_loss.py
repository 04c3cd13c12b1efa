import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.paired_loss import MIN_ROWS, judge_loss_increase


def squared_errors(num: int, increase: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated errors whose RMSEs differ by the factor 1 + increase in truth."""
    base, own = np.random.default_rng(seed).standard_normal((2, num))
    share = 0.9
    candidate = share * base + np.sqrt((1 + increase) ** 2 - share**2) * own
    return candidate**2, base**2


@pytest.mark.parametrize(
    ("increase", "verdict"), [(-0.05, Verdict.PASS), (0.3, Verdict.FAIL), (0.1, Verdict.INCONCLUSIVE)]
)
def test_judge_loss_increase_is_three_valued(increase, verdict):
    losses = squared_errors(1000, increase, seed=3)
    outcome = judge_loss_increase(*losses, 0.1, 0.05, statistic="root_mean", relative=True)
    assert outcome.verdict is verdict
    assert outcome.estimate == pytest.approx(np.sqrt(losses[0].mean() / losses[1].mean()) - 1)
    assert outcome.lower < outcome.estimate < outcome.upper
    assert (outcome.num_rows_needed is not None) == (verdict is Verdict.INCONCLUSIVE)


def test_judge_loss_increase_takes_absolute_margins_in_the_unit_of_the_loss():
    baseline = np.linspace(1.0, 2.0, 200)
    outcome = judge_loss_increase(baseline + 0.5, baseline, 0.6, 0.05, statistic="mean", relative=False)
    assert (outcome.lower, outcome.estimate, outcome.upper) == pytest.approx((0.5, 0.5, 0.5))
    assert outcome.verdict is Verdict.PASS


def test_judge_loss_increase_is_inconclusive_when_rows_are_few():
    outcome = judge_loss_increase(np.zeros(99), np.ones(99), 0.1, 0.05, statistic="mean", relative=True)
    assert (outcome.verdict, outcome.num_rows_needed) == (Verdict.INCONCLUSIVE, MIN_ROWS)


def test_judge_loss_increase_is_inconclusive_when_the_baseline_is_perfect():
    outcome = judge_loss_increase(np.ones(200), np.zeros(200), 0.1, 0.05, statistic="mean", relative=True)
    assert (outcome.verdict, outcome.num_rows_needed) == (Verdict.INCONCLUSIVE, None)


@pytest.mark.parametrize("num", [100, 300])
def test_judge_loss_increase_keeps_its_size_at_the_margin(num):
    passed = 0
    for seed in range(500):
        losses = squared_errors(num, 0.1, seed)
        outcome = judge_loss_increase(
            *losses, 0.1, 0.05, statistic="root_mean", relative=True, num_resamples=300, seed=seed
        )
        passed += outcome.verdict is Verdict.PASS
    assert passed / 500 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


def test_judge_loss_increase_is_inconclusive_when_one_row_decides():
    # one row in 200 holds the whole rise: another may be missing by chance
    baseline = np.linspace(1.0, 1.01, 200)
    candidate = baseline.copy()
    candidate[0] += 2.0
    outcome = judge_loss_increase(candidate, baseline, 0.02, 0.05, statistic="mean", relative=False)
    assert outcome.estimate == pytest.approx(0.01)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.upper > 0.05
    assert outcome.num_rows_needed > 500


def test_judge_loss_increase_names_rows_that_settle_it_about_as_often_as_it_says():
    losses = squared_errors(400, 0.0, seed=4)
    first = judge_loss_increase(*losses, 0.06, 0.05, statistic="root_mean", relative=True)
    runs, passed = 150, 0
    for seed in range(runs):
        more = squared_errors(first.num_rows_needed, first.estimate, 1000 + seed)
        outcome = judge_loss_increase(*more, 0.06, 0.05, statistic="root_mean", relative=True, num_resamples=300)
        passed += outcome.verdict is Verdict.PASS
    # the spread that it rests on is itself an estimate, of 400 rows
    assert passed / runs == pytest.approx(0.8, abs=0.2)


def test_judge_loss_increase_fails_a_candidate_with_an_infinite_loss():
    candidate = np.ones(200)
    candidate[3] = np.inf
    outcome = judge_loss_increase(candidate, np.ones(200), 0.1, 0.05, statistic="mean", relative=False)
    assert (outcome.verdict, outcome.num_rows_needed) == (Verdict.FAIL, None)


def rare_errors(generator: np.random.Generator, num: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of RMSEs that differ by 2 % in truth, because the candidate errs more on a share of the rows."""
    base, added = generator.standard_normal((2, num))
    added *= np.sqrt((1.02**2 - 1) / share) * (generator.random(num) < share)
    return (base + added) ** 2, base**2


@pytest.mark.slow
@pytest.mark.parametrize(("num", "share"), [(500, 1.0), (500, 0.1), (2000, 0.02), (200, 0.2)])
def test_judge_loss_increase_keeps_its_size_when_few_rows_carry_the_difference(num, share):
    generator, runs = np.random.default_rng([num, int(1000 * share)]), 2000
    passed = 0
    for seed in range(runs):
        losses = rare_errors(generator, num, share)
        outcome = judge_loss_increase(
            *losses, 0.02, 0.05, statistic="root_mean", relative=True, num_resamples=400, seed=seed
        )
        passed += outcome.verdict is Verdict.PASS
    assert passed / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)
