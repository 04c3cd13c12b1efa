import io
import zlib

import numpy as np
import onnxruntime
import pytest
import sklearn.metrics

from tasks.contracts.errors import ModelError
from tasks.evaluation.predictions import pack_outputs
from tasks.stages.evaluating import evaluate_model

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=301)
    return (rng.normal(size=(301, 5)) + 2 * np.eye(5)[y]).astype(np.float32), y


@pytest.fixture
def weights():
    """Return those of a good model, and of a slightly different one."""
    rng = np.random.default_rng(1)
    good = np.eye(5, 3)
    return good, good + rng.normal(scale=0.3, size=good.shape)


@pytest.fixture
def data(store_dataset, rows):
    return store_dataset(*rows, "classification", NAMES)


def test_evaluate_model_equals_what_ten_lines_of_onnxruntime_and_scikit_learn_say(
    services, store_model, linear_onnx, data, rows, weights
):
    x, y = rows
    blobs = [linear_onnx(weight) for weight in weights]
    outputs, other = (onnxruntime.InferenceSession(blob).run(None, {"x0": x})[0] for blob in blobs)
    found = evaluate_model(store_model(blobs[0]), store_model(blobs[1]), data, "test")

    assert found.metrics["accuracy"] == np.mean(outputs.argmax(axis=1) == y)
    recall = sklearn.metrics.recall_score(y, outputs.argmax(axis=1), average=None)
    assert found.per_class == pytest.approx(dict(zip(NAMES, recall, strict=True)))
    assert found.flip_rate == np.mean(outputs.argmax(axis=1) != other.argmax(axis=1)) > 0
    assert found.ece is not None
    assert 0 < found.ece < 0.5
    assert (found.num_parameters, found.flops, found.int8_coverage) == (15, 30, 0.0)
    assert found.zero_share == 12 / 15
    assert (found.size_bytes, found.size_zip_bytes) == (len(blobs[0]), len(zlib.compress(blobs[0], 9)))
    assert (found.split, found.num_rows) == ("test", 301)
    with np.load(io.BytesIO(services.artifacts.get(found.predictions.digest))) as stored:
        np.testing.assert_array_equal(stored["outputs"], outputs)


def test_evaluate_model_gives_equal_values_when_it_is_done_again(store_model, linear_onnx, data, weights):
    model, baseline = (store_model(linear_onnx(weight)) for weight in weights)
    assert evaluate_model(model, baseline, data, "validation") == evaluate_model(model, baseline, data, "validation")


def test_evaluate_model_finds_no_flips_when_the_model_is_the_baseline(store_model, linear_onnx, data, weights):
    model = store_model(linear_onnx(weights[0]))
    assert evaluate_model(model, model, data, "validation").flip_rate == 0.0


def test_evaluate_model_takes_the_baselines_predictions_when_they_are_there(
    services, store_model, linear_onnx, data, weights, rows
):
    model, baseline = (store_model(linear_onnx(weight)) for weight in weights)
    of_baseline = evaluate_model(baseline, baseline, data, "validation")
    expected = evaluate_model(model, baseline, data, "validation")
    assert evaluate_model(model, baseline, data, "validation", of_baseline.predictions) == expected
    # and does not run the baseline then
    inverted = services.artifacts.put(pack_outputs(np.float32(1000 * np.eye(3)[(rows[1] + 1) % 3])))
    assert evaluate_model(model, baseline, data, "validation", inverted).flip_rate > 0.8


def test_evaluate_model_has_no_classes_when_the_task_is_regression(store_dataset, store_model, linear_onnx, rows):
    x, _ = rows
    weight = np.arange(1.0, 6.0)[:, None]
    y = (x @ weight)[:, 0].astype(np.float32)
    model = store_model(linear_onnx(weight))
    found = evaluate_model(model, model, store_dataset(x, y, "regression", ()), "validation")
    assert found.metrics == pytest.approx({"rmse": 0.0, "mae": 0.0, "r2": 1.0}, abs=1e-5)
    assert (found.per_class, found.ece, found.flip_rate) == ({}, None, None)


def test_evaluate_model_refuses_when_a_model_is_not_onnx(store_model, linear_onnx, data, weights):
    model = store_model(linear_onnx(weights[0]))
    with pytest.raises(ModelError, match=r"baseline .* 'torch'; export it to ONNX"):
        evaluate_model(model, model.model_copy(update={"format": "torch"}), data, "validation")


def test_evaluate_model_refuses_when_the_model_is_for_other_classes(store_model, linear_onnx, data):
    model = store_model(linear_onnx(np.eye(5, 4)))
    with pytest.raises(ModelError, match=r"needs \(301, 3\)"):
        evaluate_model(model, model, data, "validation")
