import hashlib

import numpy as np
import pytest
from scipy.special import softmax

from tasks.decisions.sketch import judge_outputs, sketch_inputs, sketch_projection


def test_judge_outputs_agrees_with_scipy_softmax():
    logits = np.random.default_rng(1).normal(scale=300, size=(50, 7))
    judged = judge_outputs(logits, "classification")
    ranked = np.sort(softmax(logits, axis=1), axis=1)
    np.testing.assert_allclose(judged["confidence"], ranked[:, -1], rtol=1e-12)
    np.testing.assert_allclose(judged["margin"], ranked[:, -1] - ranked[:, -2], atol=1e-12)
    assert judged["prediction"].tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_judge_outputs_gives_the_value_and_no_confidence_when_the_task_is_regression(shape):
    judged = judge_outputs(np.array([1.5, -2, 0]).reshape(shape), "regression")
    assert judged["prediction"].tolist() == [1.5, -2, 0]
    assert np.isnan(judged["confidence"]).all()


def test_sketch_projection_never_changes():
    signs = (sketch_projection(784) > 0).astype(np.uint8)
    assert hashlib.sha256(signs.tobytes()).hexdigest()[:16] == "81ad1d5d92d7c8fb"


def test_sketch_inputs_keeps_distances_when_rows_are_projected():
    """Johnson-Lindenstrauss: the mean squared length over many rows is kept within a few percent."""
    rows = np.random.default_rng(2).normal(size=(4000, 784)).astype(np.float32)
    sketch = sketch_inputs(rows)["input_sketch"]
    ratio = (sketch**2).sum(axis=1).mean() / ((rows**2).sum(axis=1).mean() * 8 / 784)
    assert ratio == pytest.approx(1.0, abs=0.03)


def test_sketch_inputs_takes_integers_and_images():
    sketch = sketch_inputs(np.arange(24, dtype=np.int64).reshape(2, 3, 4))
    assert sketch["input_mean"].tolist() == [5.5, 17.5]
    assert sketch["input_sketch"].shape == (2, 8)
    assert sketch["input_sketch"].dtype == np.float32
