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
