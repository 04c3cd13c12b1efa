from dataclasses import replace

import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.drift_checks import drift_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Rows
from tests.decisions.traffic_model import DOUBLED, rows

POLICY = MonitoringPolicy()


def failed(window, reference, policy=POLICY):
    return {check.name for check in drift_checks(window, reference, policy) if check.verdict is Verdict.FAIL}


@pytest.mark.parametrize(
    ("change", "found_by"),
    [
        ({"brightness": 0.5}, {"input_mean_ks", "input_sketch_mmd"}),
        ({"classes": DOUBLED}, {"predicted_classes"}),
        ({"confidence_drop": 0.1}, {"confidence_ks", "confidence_psi"}),
    ],
)
def test_drift_checks_name_what_changed(change, found_by):
    generator = np.random.default_rng(1)
    reference = rows(generator, 2000)
    assert found_by <= failed(rows(generator, 1000, **change), reference)


def test_drift_checks_pass_when_nothing_changed_and_rows_are_enough():
    generator = np.random.default_rng(2)
    checks = drift_checks(rows(generator, 2000), rows(generator, 2000), POLICY)
    assert {check.verdict for check in checks} == {Verdict.PASS}
    assert len(checks) == 2 + 1 + 1 + 20


def test_drift_checks_are_inconclusive_when_too_few_rows_would_show_a_change():
    generator = np.random.default_rng(3)
    checks = drift_checks(rows(generator, 120), rows(generator, 120), POLICY)
    unsure = [check for check in checks if check.verdict is Verdict.INCONCLUSIVE]
    assert {"confidence_ks", "predicted_classes", "input_mean_ks", "input_mean_psi"} <= {check.name for check in unsure}
    assert all(check.bound > 2 * check.limit for check in unsure)


def test_drift_checks_are_inconclusive_when_there_are_no_rows():
    (check,) = drift_checks(Rows("classification"), rows(np.random.default_rng(4), 500), POLICY)
    assert (check.verdict, check.num_rows) == (Verdict.INCONCLUSIVE, 0)
    assert "longer window" in check.detail


def test_drift_checks_do_not_alarm_on_a_proven_change_that_does_not_matter():
    generator = np.random.default_rng(5)
    window, reference = rows(generator, 40_000, brightness=0.05), rows(generator, 40_000)
    (mean,) = [check for check in drift_checks(window, reference, POLICY) if check.name == "input_mean_ks"]
    assert mean.p_value < 1e-4
    assert mean.verdict is Verdict.PASS


def test_drift_checks_compare_outputs_in_place_of_confidences_when_it_is_a_regression():
    generator = np.random.default_rng(6)
    reference, window = (
        replace(
            made, task="regression", confidence=np.full(len(made), np.nan), prediction=generator.normal(mean, 1, 900)
        )
        for made, mean in ((rows(generator, 900), 0.0), (rows(generator, 900), 0.5))
    )
    assert failed(window, reference) == {"prediction_ks", "prediction_psi"}


def month(seed, num, num_reference, num_windows=720):
    generator = np.random.default_rng(seed)
    reference = rows(generator, num_reference)
    return [bool(failed(rows(generator, num), reference)) for _ in range(num_windows)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("num_reference", [215, 2000])
def test_drift_checks_fail_no_more_windows_than_their_level_when_traffic_is_stable(num_reference):
    failures = [sum(month(seed, 500, num_reference, 100)) for seed in range(10)]
    assert sum(failures) <= 1000 * POLICY.drift_alpha + 3 * (1000 * POLICY.drift_alpha) ** 0.5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("change", [{"brightness": 0.5}, {"classes": DOUBLED}, {"confidence_drop": 0.1}])
def test_drift_checks_find_a_change_in_two_of_three_windows_of_500_rows(change):
    generator = np.random.default_rng(7)
    found = 0
    for _ in range(50):
        reference = rows(generator, 2000)
        found += sum(bool(failed(rows(generator, 500, **change), reference)) for _ in range(3)) >= 2
    assert found >= 45
