import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.gate_losses import ClassCase, ErrorCase


def rmse_increase(case: ErrorCase, *, good: bool) -> float:
    asked, candidate, baseline = case.draw(np.random.default_rng(0), good=good)
    ours, theirs = (np.sqrt(np.mean((one.outputs[:, 0] - asked.labels) ** 2)) for one in (candidate, baseline))
    assert asked.constraints.max_rmse_increase == 0.02
    return float(ours / theirs - 1)


@pytest.mark.parametrize(("share", "spread"), [(1.0, 0.0), (0.1, 0.0), (1.0, 0.3)])
def test_errors_are_drawn_at_the_margin_or_as_good_as_the_baselines(share, spread):
    case = ErrorCase(400_000, share, spread)
    assert rmse_increase(case, good=False) == pytest.approx(0.02, abs=3e-3)
    assert rmse_increase(case, good=True) == pytest.approx(0.0, abs=3e-3)


def test_errors_differ_on_the_share_of_the_rows_that_is_stated():
    _, candidate, baseline = ErrorCase(100_000, 0.1).draw(np.random.default_rng(0), good=False)
    assert np.mean(candidate.outputs != baseline.outputs) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("shares", [(0.95, 0.05), (0.5, 0.3, 0.15, 0.05)])
def test_classes_are_drawn_at_the_margin_or_as_good_as_the_baselines(shares):
    case = ClassCase(100_000, shares)
    assert case.margin > 0.01
    for good, drop in ((False, case.margin), (True, 0.0)):
        asked, candidate, baseline = case.draw(np.random.default_rng(0), good=good)
        scores = [f1_score(asked.labels, one.outputs.argmax(axis=1), average="macro") for one in (baseline, candidate)]
        assert scores[0] - scores[1] == pytest.approx(drop, abs=6e-3)
        assert asked.constraints.max_macro_f1_drop == case.margin
        assert np.bincount(asked.labels) / 100_000 == pytest.approx(shares, abs=5e-3)
