import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from tasks.decisions.estimated_accuracy import calibrate, expected_accuracy


def draw(generator, num, concentration):
    """Confidences that are too high in a way that the family of calibrations holds."""
    confidence = 0.1 + 0.9 * generator.beta(concentration, 1.0, num)
    return confidence, generator.random(num) < expit(1.3 * logit(confidence) - 0.3)


def test_calibrate_finds_the_maximum_of_the_likelihood():
    confidence, right = draw(np.random.default_rng(1), 400, 3.0)
    num_right = right.sum()
    targets = np.where(right, (num_right + 1) / (num_right + 2), 1 / (len(right) - num_right + 2))
    design = np.stack([np.log(confidence), -np.log1p(-confidence), np.ones(400)], axis=1)

    def loss(parameters):
        return np.sum(np.logaddexp(0, design @ parameters) - targets * (design @ parameters))

    found = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    assert calibrate(confidence, right).parameters == pytest.approx(found, abs=1e-3)


def test_calibrate_learns_the_truth_from_many_rows():
    confidence, right = draw(np.random.default_rng(2), 200_000, 3.0)
    points = np.array([0.3, 0.5, 0.7, 0.9, 0.97])
    assert calibrate(confidence, right)(points) == pytest.approx(expit(1.3 * logit(points) - 0.3), abs=0.01)


def test_calibrate_stays_finite_when_all_answers_or_confidences_are_alike():
    everything_right = calibrate(np.linspace(0.5, 1.0, 50), np.ones(50, dtype=bool))
    assert np.isfinite(everything_right.parameters).all()
    one_value = calibrate(np.full(100, 0.8), np.arange(100) < 70)
    assert one_value(np.array([0.8]))[0] == pytest.approx(0.7, abs=0.01)


def test_expected_accuracy_is_that_of_the_reference_for_the_references_own_rows():
    confidence, right = draw(np.random.default_rng(3), 600, 3.0)
    found = expected_accuracy(confidence, confidence, right, 0.05)
    assert found.estimate == pytest.approx(right.mean(), abs=0.003)
    assert found.lower < 0.0 < found.upper


@pytest.mark.parametrize("sizes", [(500, 1000), pytest.param((2000, 3000), marks=pytest.mark.slow)])
def test_expected_accuracy_is_bounded_when_inputs_get_harder(sizes):
    runs, alpha = 100, 0.05
    generator = np.random.default_rng(4)
    truth = draw(generator, 1_000_000, 2.0)[1].mean() - draw(generator, 1_000_000, 4.0)[1].mean()
    too_low = errors = 0.0
    for _ in range(runs):
        found = expected_accuracy(draw(generator, sizes[0], 2.0)[0], *draw(generator, sizes[1], 4.0), alpha)
        too_low += found.upper < truth
        errors += found.difference - truth
    assert truth < -0.1
    assert too_low <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert abs(errors / runs) < 0.01


def test_expected_accuracy_is_off_by_no_more_than_the_calibration_is():
    # the stated limit of the method: where what is right changes, so does what a confidence means
    generator = np.random.default_rng(5)
    reference = draw(generator, 5000, 4.0)
    window = draw(generator, 5000, 4.0)[0]
    moved = np.clip(expit(1.3 * logit(window) - 0.3) - 0.08, 0.0, 1.0)
    found = expected_accuracy(window, *reference, 0.05)
    assert abs(found.estimate - moved.mean()) <= 0.08 + 0.02
