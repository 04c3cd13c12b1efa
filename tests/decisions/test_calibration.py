import numpy as np
import pytest

from tasks.decisions.calibration import overconfidence


def test_overconfidence_equals_the_value_worked_by_hand():
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6]], dtype=np.float32))
    assert overconfidence(logits, np.array([0, 0])) == pytest.approx([0.8 - 1.0, 0.6])


def test_overconfidence_is_zero_on_average_when_labels_follow_the_confidences():
    generator = np.random.default_rng(0)
    logits = 2.0 * generator.standard_normal((20_000, 4)).astype(np.float32)
    gumbel = -np.log(-np.log(generator.random(logits.shape)))
    labels = (logits + gumbel).argmax(axis=1)
    assert overconfidence(logits, labels).mean() == pytest.approx(0.0, abs=0.01)
    assert overconfidence(3 * logits, labels).mean() > 0.15
