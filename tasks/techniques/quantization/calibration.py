"""Which rows activations are calibrated on."""

import numpy as np

from tasks.contracts.data import Task
from tasks.techniques.technique import Arrays


def calibration_rows(split: Arrays, task: Task, num_rows: int, seed: int) -> np.ndarray:
    """Return the inputs [N, *input_shape] of the rows that `drawn_rows` chooses."""
    return drawn_rows(split, task, num_rows, seed).x


def drawn_rows(split: Arrays, task: Task, num_rows: int, seed: int) -> Arrays:
    """Draw rows without replacement, evenly over the classes as long as each has some left.

    For regression they are drawn evenly over the order of the targets. All rows are taken where there
    are not more than `num_rows`. The rows stay in their order.
    """
    if len(split.x) <= num_rows:
        return split
    if task == "regression":
        by_target = np.argsort(split.y.reshape(-1), kind="stable")
        evenly = np.linspace(0, len(by_target) - 1, num_rows).round().astype(np.int64)
        return _rows(split, by_target[evenly])
    shuffled = np.random.default_rng(seed).permutation(len(split.x))
    turn = np.empty(len(shuffled), dtype=np.int64)
    for label in np.unique(split.y):
        of_label = shuffled[split.y[shuffled] == label]
        turn[of_label] = np.arange(len(of_label))
    return _rows(split, shuffled[np.argsort(turn[shuffled], kind="stable")][:num_rows])


def _rows(split: Arrays, positions: np.ndarray) -> Arrays:
    in_order = np.sort(positions)
    return Arrays(split.x[in_order], split.y[in_order])
