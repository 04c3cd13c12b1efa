"""The rows of a data set as monitoring's reference takes them: of the validation split, and what others add to it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.data import LABELLED_SPLIT_NAMES, DatasetRef, SplitName, Task
from tasks.contracts.verdict import Verdict
from tasks.decisions.drift import class_test
from tasks.decisions.drift_checks import input_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.sketch import judge_outputs, sketch_inputs
from tasks.decisions.window import Rows
from tasks.runtime.stores import ArtifactStore
from tasks.stages.splits import load_split

_LEARNED: tuple[SplitName, ...] = ("train", "calibration")
_MAX_INPUTS = 5000
"""Inputs kept of a reference, drawn by lot: some ten windows, so that the window's size is what limits a test."""


def split_rows(x: np.ndarray, y: np.ndarray, outputs: np.ndarray, task: Task) -> Rows:
    """Return rows [N, *input_shape] and outputs [N, K] as monitoring compares them, in an order drawn by lot.

    Splits may be sorted by class, and the tests that take a part of the rows need it to be a fair one.
    """
    order = np.random.default_rng(0).permutation(len(x))
    judged = {name: values[order] for name, values in judge_outputs(outputs, task).items()}
    labelled = task == "classification"
    return replace(
        _input_rows(x[order], task),
        prediction=judged["prediction"],
        confidence=judged["confidence"],
        right=judged["prediction"] == y[order] if labelled else None,
        label=y[order].astype(np.int64) if labelled else None,
    )


def learned_inputs(artifacts: ArtifactStore, data: DatasetRef) -> Rows:
    """Return the inputs of the rows that models learn from, in an order drawn by lot, without answers."""
    parts = [_input_rows(load_split(artifacts, data, name).x, data.task) for name in _LEARNED if name in data.splits]
    return Rows(data.task, **_joined_inputs(parts, lot=0)) if parts else Rows(data.task)


def with_more_inputs(validation: Rows, learned: Rows, policy: MonitoringPolicy) -> Rows:
    """Return the rows of the validation split with the inputs of both, if the two are of one kind.

    They are where the splits were dealt from one pool. Where a source brings a validation split of its own, the tests
    that will judge the windows can tell the two apart, or have too few rows to: then it stands alone.

    Args:
        validation: N rows.
        learned: inputs of rows that the model learned from.
        policy: limits and error rates.
    """
    if min(len(validation), learned.num_inputs) < policy.min_rows:
        return validation
    if any(check.verdict is Verdict.FAIL for check in input_checks(learned, validation, policy)):
        return validation
    return replace(validation, **_joined_inputs((validation, learned), lot=1))


def class_rows(data: DatasetRef, labels: NDArray[np.int64], policy: MonitoringPolicy) -> NDArray[np.int64]:
    """Return the rows per class [C] of all splits; of the validation split alone if the others are mixed otherwise.

    Args:
        data: a data set with classes; its other splits are not read, only their counts.
        labels: of the validation split's rows.
        policy: limits and error rates.
    """
    num_classes = len(data.class_names)
    validation = np.bincount(labels, minlength=num_classes)
    others = np.zeros(num_classes, dtype=np.int64)
    for name in LABELLED_SPLIT_NAMES:
        if name != "validation" and name in data.splits:
            composition = data.splits[name].composition
            others += np.array([composition.get(label, 0) for label in data.class_names], dtype=np.int64)
    if not others.sum() or (others[validation == 0] > 0).any():
        return validation
    test = class_test(validation, others, policy.drift_alpha)
    differ = test.p_value < policy.drift_alpha and test.effect >= policy.min_class_effect
    return validation if differ else validation + others


def _input_rows(x: np.ndarray, task: Task) -> Rows:
    inputs = sketch_inputs(x)
    return Rows(
        task=task,
        input_mean=inputs["input_mean"],
        input_std=inputs["input_std"],
        input_sketch=inputs["input_sketch"].astype(np.float64),
    )


def _joined_inputs(parts: Sequence[Rows], lot: int) -> dict[str, Any]:
    """Put the inputs of all together, draw at most so many, and return them by their names in `Rows`."""
    order = np.random.default_rng(lot).permutation(sum(part.num_inputs for part in parts))[:_MAX_INPUTS]
    return {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("input_mean", "input_std", "input_sketch")
    }
