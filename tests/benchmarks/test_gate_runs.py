import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks import gate_runs
from benchmarks.gate_runs import PairedCase, draw_classes, draw_errors, f1_margin, passes
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


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_errors_are_drawn_at_the_margin(monkeypatch, share):
    monkeypatch.setattr(gate_runs, "_ERROR_ROWS", 400_000)
    question, candidate, baseline = draw_errors(np.random.default_rng(0), share)
    ours, theirs = (np.sqrt(np.mean((one.outputs[:, 0] - question.labels) ** 2)) for one in (candidate, baseline))
    assert ours / theirs - 1 == pytest.approx(question.constraints.max_rmse_increase, abs=2e-3)
    assert np.mean(candidate.outputs != baseline.outputs) == pytest.approx(share, abs=0.01)


def test_classes_are_drawn_at_the_margin(monkeypatch):
    monkeypatch.setattr(gate_runs, "_F1_ROWS", 400_000)
    question, candidate, baseline = draw_classes(np.random.default_rng(0))
    ours, theirs = (
        f1_score(question.labels, one.outputs.argmax(axis=1), average="macro") for one in (candidate, baseline)
    )
    assert theirs - ours == pytest.approx(f1_margin(), abs=2e-3)
    assert question.constraints.max_macro_f1_drop == f1_margin() > 0.01
