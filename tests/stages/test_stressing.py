import io

import numpy as np
import pytest

from tasks.contracts.errors import ModelError
from tasks.evaluation.corruptions import Reference, corrupt, suite
from tasks.stages.stressing import evaluate_corrupted

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=301)
    return (rng.normal(size=(301, 5)) + 2 * np.eye(5)[y]).astype(np.float32), y


@pytest.fixture
def data(store_dataset, rows):
    return store_dataset(*rows, "classification", NAMES)


def arrays(services, found):
    with np.load(io.BytesIO(services.artifacts.get(found.predictions.digest)), allow_pickle=False) as stored:
        return dict(stored)


def test_evaluate_corrupted_answers_the_corrupted_rows(services, store_model, linear_onnx, data, rows):
    x, y = rows
    weights = np.eye(5, 3)
    found = evaluate_corrupted(store_model(linear_onnx(weights)), data, "test")
    stored = arrays(services, found)
    assert list(stored) == ["feature_noise", "missing_values"] == list(found.metrics)
    for name, corruption in suite((5,), "float32", is_text=False).items():
        expected = corrupt(name, corruption, x, Reference(x)) @ weights
        np.testing.assert_allclose(stored[name], expected, atol=1e-5)
        assert found.metrics[name]["accuracy"] == np.mean(expected.argmax(axis=1) == y)


def test_evaluate_corrupted_is_the_same_for_every_model_and_time(store_model, linear_onnx, data):
    model = store_model(linear_onnx(np.eye(5, 3)))
    assert evaluate_corrupted(model, data, "test") == evaluate_corrupted(model, data, "test")


def test_evaluate_corrupted_lets_outputs_be_infinite(services, store_model, linear_onnx, data):
    weights = np.eye(5, 3)
    weights[3, 0] = 3e38  # overflows where feature 3 is larger than one
    found = evaluate_corrupted(store_model(linear_onnx(weights)), data, "test")
    assert not np.isfinite(arrays(services, found)["feature_noise"]).all()
    assert "feature_noise" not in found.metrics


def test_evaluate_corrupted_raises_when_the_model_is_of_another_data_set(store_model, linear_onnx, data):
    with pytest.raises(ModelError):
        evaluate_corrupted(store_model(linear_onnx(np.eye(4, 3))), data, "test")
