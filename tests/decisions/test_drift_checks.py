from dataclasses import replace

import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.drift_checks import drift_checks, input_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Rows
from tests.decisions.traffic_model import DOUBLED, rows, stratified_reference

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


def test_drift_checks_take_inputs_and_classes_from_more_rows_than_answers():
    generator = np.random.default_rng(8)
    data, counted = stratified_reference(generator, 1797)
    label, answer = np.repeat(np.indices((10, 10)).reshape(2, -1), counted.reshape(-1), axis=1)
    small, more = rows(generator, len(label)), rows(generator, 1150)
    reference = replace(
        more, confidence=small.confidence, prediction=answer.astype(np.float64), label=label, data_classes=data
    )
    checks = {check.name: check for check in drift_checks(rows(generator, 500), reference, POLICY)}
    assert checks["confidence_ks"].num_reference == len(label) < 220
    assert checks["input_mean_ks"].num_reference == 1150
    assert 900 < checks["predicted_classes"].num_reference < 1797
    assert not [check for check in checks.values() if check.verdict is Verdict.FAIL]
    assert "predicted_classes" in failed(rows(generator, 500, classes=DOUBLED), reference)


def test_input_checks_need_no_answers():
    generator = np.random.default_rng(9)
    window, reference = (
        replace(made, prediction=np.empty(0), confidence=np.empty(0))
        for made in (rows(generator, 600, brightness=0.6), rows(generator, 600))
    )
    names = {check.name for check in input_checks(window, reference, POLICY) if check.verdict is Verdict.FAIL}
    assert {"input_mean_ks", "input_sketch_mmd"} <= names


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
