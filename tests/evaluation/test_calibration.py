import numpy as np
import pytest
import scipy.special

from tasks.evaluation.calibration import NUM_BINS, expected_calibration_error


def logits_of(confidence: list[float]) -> np.ndarray:
    p = np.array(confidence)
    return np.log(np.stack([p, 1 - p], axis=1))


def slow_ece(logits: np.ndarray, y: np.ndarray, num_bins: int) -> float:
    """Follow the definition row by row and bin by bin."""
    total = 0.0
    for m in range(num_bins):
        rows = []
        for logit, label in zip(logits.astype(np.float64), y, strict=True):
            p = scipy.special.softmax(logit)
            if m / num_bins < max(p) <= (m + 1) / num_bins:
                rows.append((max(p), float(np.argmax(p) == label)))
        if rows:
            confidences, hits = zip(*rows, strict=True)
            total += len(rows) / len(y) * abs(sum(hits) / len(rows) - sum(confidences) / len(rows))
    return total


def test_expected_calibration_error_equals_the_case_worked_by_hand():
    # five bins: 0.7 and 0.75 share (0.6, 0.8], one of two right; 0.9 and 0.95 share (0.8, 1], both right
    logits, y = logits_of([0.7, 0.75, 0.9, 0.95]), np.array([0, 1, 0, 0])
    expected = 2 / 4 * abs(1 / 2 - 1.45 / 2) + 2 / 4 * abs(1 - 1.85 / 2)
    assert expected_calibration_error(logits, y, num_bins=5) == pytest.approx(expected, rel=1e-14)


def test_expected_calibration_error_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(300, 6)).astype(np.float32)
    y = rng.integers(6, size=300)
    assert NUM_BINS == 15
    assert expected_calibration_error(logits, y) == pytest.approx(slow_ece(logits, y, 15), rel=1e-12)


def test_expected_calibration_error_counts_the_last_bin_when_confidence_is_one():
    logits = np.array([[1e4, 0.0], [1e4, 0.0]], np.float32)
    assert expected_calibration_error(logits, np.array([0, 1])) == 0.5


def test_expected_calibration_error_is_near_zero_when_labels_are_drawn_from_the_confidences():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(200_000, 4))
    cumulative = scipy.special.softmax(logits, axis=1).cumsum(axis=1)
    y = np.minimum((rng.random((len(logits), 1)) > cumulative).sum(axis=1), 3)
    assert expected_calibration_error(logits, y) < 0.006
    assert expected_calibration_error(3 * logits, y) > 0.15
