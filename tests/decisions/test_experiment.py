import math

import numpy as np
import pytest

from tasks.decisions.experiment import (
    ArmStats,
    Observation,
    PairedCounts,
    StepTraffic,
    champion_reference,
    division_log_e,
    error_increase,
    latency_ratio,
    sample_ratio,
)


def counts(weight: float, champion: int, challenger: int) -> StepTraffic:
    return StepTraffic(weight, ArmStats(requests=champion), ArmStats(requests=challenger))


def errors(weight: float, champion: tuple[int, int], challenger: tuple[int, int]) -> Observation:
    arms = [ArmStats(requests=total, errors=failed) for failed, total in (champion, challenger)]
    return Observation((StepTraffic(weight, *arms),))


def latencies(champion: np.ndarray, challenger: np.ndarray, weight: float = 50.0) -> Observation:
    arms = [ArmStats(requests=len(ms), latencies_ms=ms) for ms in (champion, challenger)]
    return Observation((StepTraffic(weight, *arms),))


def test_observation_gives_empty_arms_for_a_weight_without_traffic():
    assert Observation().at(25.0).challenger.requests == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ArmStats(requests=1, errors=2),
        lambda: ArmStats(rows=3, labelled=4),
        lambda: ArmStats(rows=3, labelled=2, correct=3),
        lambda: StepTraffic(5.0, paired=PairedCounts(both_right=1)),
        lambda: Observation((StepTraffic(5.0), StepTraffic(5.0))),
    ],
)
def test_observation_refuses_impossible_counts(make):
    with pytest.raises(AssertionError):
        make()


def test_sample_ratio_is_calm_when_traffic_is_divided_rightly():
    found = sample_ratio(Observation((StepTraffic(0.0, ArmStats(requests=500)), counts(5.0, 9500, 500))), 1e-4)
    assert not found.mismatch
    assert (found.expected, found.observed, found.p_value) == (500.0, 500, 1.0)


def test_sample_ratio_alarms_when_the_challenger_gets_nothing():
    assert sample_ratio(Observation((counts(50.0, 40, 0),)), 1e-4).mismatch


def test_sample_ratio_joins_the_evidence_of_all_steps():
    one, two = counts(25.0, 800, 200), counts(50.0, 560, 440)
    assert not sample_ratio(Observation((one,)), 1e-4).mismatch
    assert not sample_ratio(Observation((two,)), 1e-4).mismatch
    assert sample_ratio(Observation((one, two)), 1e-4).mismatch


def test_sample_ratio_alarms_when_the_champion_answers_at_100_percent():
    assert sample_ratio(Observation((counts(100.0, 1, 999),)), 1e-4).mismatch
    assert not sample_ratio(Observation((counts(100.0, 0, 999),)), 1e-4).mismatch


def alarms(share: float, true_share: float, runs: int, alpha: float) -> float:
    """Share of runs that ever alarm in 200 looks at 100 requests each."""
    drawn = np.random.default_rng(7).binomial(100, true_share, size=(runs, 200)).cumsum(axis=1)
    found = 0
    for run in drawn:
        looks = (counts(100 * share, 100 * (look + 1) - int(num), int(num)) for look, num in enumerate(run))
        found += any(sample_ratio(Observation((step,)), alpha).mismatch for step in looks)
    return found / runs


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_sample_ratio_keeps_its_size_with_200_looks(share):
    assert alarms(share, share, runs=150, alpha=0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def test_sample_ratio_finds_a_division_that_is_off_by_three_points():
    assert alarms(0.5, 0.53, runs=20, alpha=1e-4) == 1.0


def test_champion_reference_is_the_last_step_with_champion_traffic():
    observation = Observation((counts(5.0, 90, 10), counts(50.0, 70, 70), counts(100.0, 0, 30)))
    assert champion_reference(observation, 100.0).requests == 70
    assert champion_reference(observation, 5.0).requests == 90
    assert champion_reference(Observation(), 5.0).requests == 0


def test_error_increase_proves_harm_after_a_dozen_requests_when_all_fail():
    assert error_increase(errors(0.0, (0, 12), (12, 12)), 0.0, 0.05).lower > 0.01


def test_error_increase_proves_nothing_when_errors_are_rare_and_few():
    bounds = error_increase(errors(5.0, (0, 950), (1, 50)), 5.0, 0.05)
    assert bounds.estimate == pytest.approx(0.02)
    assert bounds.lower < 0.01 < bounds.upper


def test_error_increase_proves_absence_of_harm_on_much_traffic():
    assert error_increase(errors(50.0, (2, 5000), (3, 5000)), 50.0, 0.05).upper < 0.01


def test_error_increase_keeps_its_size_with_looks_at_every_tick():
    generator = np.random.default_rng(8)
    wrong = 0
    for _ in range(100):
        old, new = generator.binomial(570, 0.01, 20).cumsum(), generator.binomial(30, 0.02, 20).cumsum()
        wrong += any(
            error_increase(errors(5.0, (int(a), 570 * look), (int(b), 30 * look)), 5.0, 0.05).lower > 0.01
            for look, (a, b) in enumerate(zip(old, new, strict=True), start=1)
        )
    assert wrong / 100 <= 0.05


def test_latency_ratio_proves_harm_within_some_dozen_requests_when_three_times_slower():
    generator = np.random.default_rng(9)
    champion, challenger = generator.lognormal(0, 0.3, 40), 3 * generator.lognormal(0, 0.3, 40)
    assert latency_ratio(latencies(champion, challenger), 50.0, 0.5, 0.05).lower > 1.5


def test_latency_ratio_is_bounded_on_both_sides_when_there_is_enough_traffic():
    generator = np.random.default_rng(10)
    champion, challenger = generator.lognormal(0, 0.3, 4000), generator.lognormal(0, 0.3, 4000)
    bounds = latency_ratio(latencies(champion, challenger), 50.0, 0.95, 0.05)
    assert 0.85 < bounds.lower < 1.0 < bounds.upper < 1.15


def test_latency_ratio_knows_nothing_without_requests():
    bounds = latency_ratio(Observation(), 50.0, 0.95, 0.05)
    assert (bounds.estimate, bounds.lower, bounds.upper) == (None, 0.0, math.inf)


def test_division_log_e_of_many_runs_is_that_of_each():
    challenger, total = np.array([3, 12, 40]), np.array([100, 100, 200])
    each = [float(division_log_e(int(got), int(of), 5.0)) for got, of in zip(challenger, total, strict=True)]
    assert division_log_e(challenger, total, 5.0) == pytest.approx(each)
    assert sample_ratio(Observation((counts(5.0, 160, 40),)), 1e-4).p_value == pytest.approx(math.exp(-each[2]))


def test_division_log_e_asks_nothing_in_shadow_and_for_every_request_at_100_percent():
    assert division_log_e(np.array([0, 9]), 10, 0.0).tolist() == [0.0, 0.0]
    assert division_log_e(np.array([9, 10]), 10, 100.0).tolist() == [math.inf, 0.0]
