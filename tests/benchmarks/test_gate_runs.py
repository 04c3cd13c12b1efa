import math

import pytest

from benchmarks.gate_runs import PairedCase, passes
from tasks.decisions.gate_power import chance_to_settle


def test_verdicts_are_those_of_the_shares_that_are_stated():
    case = PairedCase(margin=0.03, discordance=0.1, num_rows=500, drop=0.0)
    computed = chance_to_settle(500, case.constraints(), case.policy(), 1)
    runs = 400
    found = passes(case.verdicts(runs, "test", 0)) / runs
    assert 0.3 < computed < 0.9
    assert found == pytest.approx(computed, abs=3.5 * math.sqrt(computed * (1 - computed) / runs))


def test_shares_of_a_case_are_the_baselines_accuracy_and_the_drop():
    both, lost, won, neither = PairedCase(margin=0.02, discordance=0.05, num_rows=1, drop=0.02).shares
    assert both + lost == pytest.approx(0.93)
    assert (lost + won, lost - won) == pytest.approx((0.05, 0.02))
    assert both + lost + won + neither == pytest.approx(1.0)
