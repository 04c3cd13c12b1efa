import numpy as np
import pytest

from tasks.techniques.quantization.sensitivity import metric_drop, output_noise


def test_output_noise_is_as_by_hand():
    reference = np.array([[1.0], [-1.0], [3.0], [1.0]])  # mean 1: signal 0 + 4 + 4 + 0
    outputs = reference + np.array([[0.1], [-0.1], [0.1], [0.1]])
    assert output_noise(reference, outputs) == pytest.approx(0.04 / 8)
    assert output_noise(reference, reference) == 0.0
    assert output_noise(np.ones((3, 1)), np.ones((3, 1)) + 0.5) == float("inf")


def test_metric_drop_is_the_accuracy_lost():
    labels = np.array([0, 1, 1, 0])
    right, one_wrong = np.eye(2)[labels], np.eye(2)[[0, 1, 1, 1]]
    assert metric_drop(right, one_wrong, labels, "classification") == 0.25
    assert metric_drop(one_wrong, right, labels, "classification") == -0.25


def test_metric_drop_is_the_relative_rise_of_the_rmse():
    labels = np.zeros(4)
    assert metric_drop(np.full((4, 1), 2.0), np.full((4, 1), -2.5), labels, "regression") == pytest.approx(0.25)
    assert metric_drop(np.zeros((4, 1)), np.ones((4, 1)), labels, "regression") == float("inf")
