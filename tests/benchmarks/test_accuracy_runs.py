import numpy as np
import pytest

from benchmarks.accuracy_runs import Looks
from tasks.decisions.rollout import RolloutPolicy

RAMP = Looks(0.95, ((0.0, 20), (5.0, 20), (50.0, 20)))


def test_observations_add_up_over_the_looks_of_each_step():
    seen = list(RAMP.observations(np.random.default_rng(0), 0.9))
    assert len(seen) == 60
    last = seen[-1]
    assert last.at(0.0).paired.total == 20 * 100
    for weight in (5.0, 50.0):
        step = last.at(weight)
        assert step.champion.labelled + step.challenger.labelled == 20 * 100
        assert step.challenger.labelled == pytest.approx(20 * weight, rel=0.5)
    assert seen[10].at(50.0).champion.labelled == 0


def test_observations_are_as_accurate_as_stated():
    last = list(Looks(0.95, ((0.0, 1000), (50.0, 1000))).observations(np.random.default_rng(1), 0.93))[-1]
    table, split = last.at(0.0).paired, last.at(50.0)
    assert (table.only_champion - table.only_challenger) / table.total == pytest.approx(0.02, abs=3e-3)
    assert split.champion.correct / split.champion.labelled == pytest.approx(0.95, abs=4e-3)
    assert split.challenger.correct / split.challenger.labelled == pytest.approx(0.93, abs=5e-3)


def test_misjudged_is_seldom_and_finds_errors_when_alpha_lets_it():
    strict, lax = RolloutPolicy(alpha=0.001), RolloutPolicy(alpha=0.45)
    found = [RAMP.misjudged(np.random.default_rng(seed), strict) for seed in range(15)]
    assert not any(good or harmful for good, harmful in found)
    found = [RAMP.misjudged(np.random.default_rng(seed), lax) for seed in range(15)]
    assert any(good for good, _ in found)
    assert any(harmful for _, harmful in found)
