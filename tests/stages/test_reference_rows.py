import numpy as np
import pytest

from tasks.adapters.local_store import LocalArtifacts
from tasks.contracts.data import DatasetRef, SplitRef
from tasks.datasets.splits import pack_split
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.stages.reference_rows import class_rows, learned_inputs, split_rows, with_more_inputs

POLICY = MonitoringPolicy()
NAMES = ("a", "b", "c")


def split(artifacts, num, *, shift=0.0, classes=(1 / 3, 1 / 3, 1 / 3), seed=0):
    generator = np.random.default_rng(seed)
    x = (generator.random((num, 6)) + shift).astype(np.float32)
    y = np.repeat(np.arange(3), np.round(np.array(classes) * num).astype(int))
    stored = artifacts.put(pack_split(x[: len(y)], y))
    composition = dict(zip(NAMES, np.bincount(y, minlength=3).tolist(), strict=True))
    ref = SplitRef(digest=stored.digest, size_bytes=stored.size_bytes, num_rows=len(y), composition=composition)
    return ref, x[: len(y)], y


def dataset(**splits):
    return DatasetRef(
        name="rows", task="classification", revision="r", input_shape=(6,), class_names=NAMES, splits=splits
    )


def test_split_rows_says_what_the_gateway_would_have_logged_and_what_was_right():
    x = np.random.default_rng(1).random((6, 4, 4)).astype(np.float32)
    outputs = np.eye(6)[:, :3] * 5.0
    outputs[3:, 2] = 5.0
    y = np.array([0, 1, 0, 2, 2, 1])
    rows = split_rows(x, y, outputs, "classification")
    order = np.random.default_rng(0).permutation(6)
    assert rows.input_mean == pytest.approx(x.reshape(6, -1).mean(axis=1)[order])
    assert rows.right.tolist() == [bool([1, 1, 0, 1, 1, 0][i]) for i in order]
    assert rows.input_sketch.shape == (6, 8)


def test_with_more_inputs_adds_what_models_learn_from_and_leaves_answers_alone(tmp_path):
    artifacts = LocalArtifacts(tmp_path)
    train, learned_x, _ = split(artifacts, 600, seed=1)
    calibration, _, _ = split(artifacts, 90, seed=2)
    validation, x, y = split(artifacts, 150, seed=3)
    data = dataset(train=train, calibration=calibration, validation=validation)
    alone = split_rows(x, y, np.eye(3)[y], "classification")

    learned = learned_inputs(artifacts, data)
    made = with_more_inputs(alone, learned, POLICY)

    assert (len(made), made.num_inputs, learned.num_inputs) == (150, 840, 690)
    assert made.confidence is alone.confidence
    assert set(learned_x.mean(axis=1, dtype=np.float64)) <= set(made.input_mean)
    assert sorted(made.input_mean) == pytest.approx(sorted([*alone.input_mean, *learned.input_mean]))
    assert made.input_mean[:150] != pytest.approx(alone.input_mean)  # mixed: tests take a part of the rows


@pytest.mark.parametrize(("num", "shift"), [(150, 0.1), (60, 0.0)])
def test_with_more_inputs_leaves_a_validation_split_alone_that_differs_or_is_too_small_to_tell(tmp_path, num, shift):
    artifacts = LocalArtifacts(tmp_path)
    train, _, _ = split(artifacts, 600, shift=shift, seed=1)
    _, x, y = split(artifacts, num, seed=3)
    alone = split_rows(x, y, np.eye(3)[y], "classification")

    assert with_more_inputs(alone, learned_inputs(artifacts, dataset(train=train)), POLICY) is alone


def test_class_rows_counts_all_splits_unless_they_are_mixed_otherwise(tmp_path):
    artifacts = LocalArtifacts(tmp_path)
    validation, _, y = split(artifacts, 150)
    even, _, _ = split(artifacts, 600)
    uneven, _, _ = split(artifacts, 600, classes=(0.6, 0.2, 0.2))

    assert class_rows(dataset(train=even, test=even, validation=validation), y, POLICY).tolist() == [450, 450, 450]
    assert class_rows(dataset(train=uneven, validation=validation), y, POLICY).tolist() == [50, 50, 50]
    assert class_rows(dataset(validation=validation), y, POLICY).tolist() == [50, 50, 50]
