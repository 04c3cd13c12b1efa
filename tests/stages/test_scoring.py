"""Scores on the two halves of a split."""

from collections.abc import Callable

import numpy as np
import pytest

from tasks.contracts.data import DatasetRef, Task
from tasks.contracts.errors import DataError
from tasks.decisions.search import halves
from tasks.evaluation.predictions import pack_outputs
from tasks.runtime.services import Services
from tasks.stages.scoring import score_halves

StoreDataset = Callable[[np.ndarray, np.ndarray, Task, tuple[str, ...]], DatasetRef]


def test_a_classifier_is_scored_by_its_accuracy_on_each_half(services: Services, store_dataset: StoreDataset) -> None:
    y = np.array([0, 1] * 20)
    data = store_dataset(np.zeros((40, 2), np.float32), y, "classification", ("a", "b"))
    outputs = np.eye(2, dtype=np.float32)[y]
    tuned, _ = halves(y, seed=5)
    outputs[tuned[:3]] = outputs[tuned[:3], ::-1]  # three mistakes, all on the half that the search goes by
    found = score_halves(services.artifacts.put(pack_outputs(outputs)), "validation", data, seed=5)
    assert (found.tuned, found.held) == (17 / 20, 1.0)


def test_a_regression_is_scored_by_its_error_on_each_half(services: Services, store_dataset: StoreDataset) -> None:
    y = np.arange(10, dtype=np.float32)
    data = store_dataset(np.zeros((10, 2), np.float32), y, "regression", ())
    outputs = y[:, None].copy()
    _, held = halves(y, seed=1)
    outputs[held] += 2.0
    found = score_halves(services.artifacts.put(pack_outputs(outputs)), "validation", data, seed=1)
    assert (found.tuned, found.held) == (0.0, 2.0)


def test_a_split_of_one_row_cannot_be_searched_on(services: Services, store_dataset: StoreDataset) -> None:
    data = store_dataset(np.zeros((1, 2), np.float32), np.array([0]), "classification", ("a", "b"))
    predictions = services.artifacts.put(pack_outputs(np.zeros((1, 2), np.float32)))
    with pytest.raises(DataError, match=r"rows: a search divides the validation split in two, and it has 1 rows"):
        score_halves(predictions, "validation", data, seed=0)
