from dataclasses import replace

import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.accuracy_checks import accuracy_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Labels
from tests.decisions.traffic_model import labels, rows

POLICY = MonitoringPolicy()


@pytest.fixture
def generator():
    return np.random.default_rng(1)


@pytest.fixture
def reference(generator):
    return rows(generator, 3000, labelled=True)


@pytest.mark.parametrize(("drop", "verdict"), [(0.0, Verdict.PASS), (0.12, Verdict.FAIL), (0.03, Verdict.INCONCLUSIVE)])
def test_labelled_accuracy_is_three_valued(generator, reference, drop, verdict):
    arrived = labels(generator, 3000, reference.right.mean() - drop)
    (check, *_) = accuracy_checks(rows(generator, 500), arrived, reference, POLICY)
    assert (check.name, check.verdict) == ("labelled_accuracy", verdict)
    assert check.estimate == pytest.approx(reference.right.mean() - drop, abs=0.03)


def test_accuracy_never_passes_without_labels(generator, reference):
    checks = accuracy_checks(rows(generator, 5000), Labels(answered=5000), reference, POLICY)
    assert {check.name: check.verdict for check in checks} == {
        "labelled_accuracy": Verdict.INCONCLUSIVE,
        "estimated_accuracy": Verdict.INCONCLUSIVE,
    }
    assert "0%" in checks[0].detail


def test_accuracy_fails_without_labels_when_confidences_have_dropped(generator, reference):
    window = rows(generator, 1000, confidence_drop=0.15)
    *_, estimated = accuracy_checks(window, Labels(), reference, POLICY)
    assert estimated.verdict is Verdict.FAIL
    assert estimated.estimate < estimated.reference - 0.05


def test_labels_that_settle_it_beat_the_estimate(generator, reference):
    window = rows(generator, 1000, confidence_drop=0.15)
    (check,) = accuracy_checks(window, labels(generator, 5000, reference.right.mean()), reference, POLICY)
    assert (check.name, check.verdict) == ("labelled_accuracy", Verdict.PASS)


@pytest.mark.parametrize("right", [None, "all"])
def test_estimated_accuracy_is_inconclusive_when_the_reference_cannot_teach_it(generator, reference, right):
    known = replace(reference, right=None if right is None else np.ones(3000, dtype=bool))
    *_, estimated = accuracy_checks(rows(generator, 1000, confidence_drop=0.3), Labels(), known, POLICY)
    assert (estimated.verdict, estimated.estimate) == (Verdict.INCONCLUSIVE, None)


def test_regression_is_judged_by_labels_alone(generator, reference):
    window = replace(rows(generator, 500), task="regression")
    assert [check.name for check in accuracy_checks(window, Labels(), reference, POLICY)] == ["labelled_accuracy"]


def test_stable_accuracy_fails_no_more_often_than_its_level(generator):
    failures = 0
    for _ in range(300):
        known = rows(generator, 400, labelled=True)
        checks = accuracy_checks(rows(generator, 300), labels(generator, 150, 0.905), known, POLICY)
        failures += any(check.verdict is Verdict.FAIL for check in checks)
    assert failures <= 3  # two checks at 0.001 each, and a drop of 0.03 is tolerated
