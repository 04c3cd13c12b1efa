"""From all rows of a source to its splits: inputs and targets, with what no split may share checked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.contracts.data import SplitName, Task
from tasks.contracts.errors import DataError
from tasks.datasets.source import RawTable, SplitFractions
from tasks.datasets.splits import check_leakage, row_hashes, split_rows

NO_CLASS = -1
"""Label of a row without one, for classification; for regression it is NaN."""


@dataclass(frozen=True)
class Part:
    """One split: `x` [N, ...] as in `RawTable`, `y` [N]."""

    x: np.ndarray
    y: np.ndarray


def divide(
    table: RawTable, fractions: SplitFractions, seed: int, assigned: Mapping[bytes, SplitName] | None = None
) -> dict[SplitName, Part]:
    """Divide `table` into splits that share no row; `assigned` is that of `split_rows`.

    The split `unlabelled` is there where a share or rows of their own are given for it. Of the latter,
    rows that repeat a row of another split are left out: they would teach nothing new, or be a test row.

    Raises:
        DataError: rows stand in two splits, or no row is left for the split `unlabelled`.
    """
    rows = split_rows(table, fractions, seed, assigned)
    check_leakage({name: table.x[chosen] for name, chosen in rows.items()})
    dropped = table.x[rows.pop("unlabelled", np.empty(0, dtype=np.int64))]
    parts = {name: Part(table.x[chosen], table.y[chosen]) for name, chosen in rows.items()}
    if table.unlabelled is not None or fractions.unlabelled > 0:
        unlabelled = _joined(dropped, table.unlabelled, parts)
        parts["unlabelled"] = Part(unlabelled, _no_labels(len(unlabelled), table.task))
    return parts


def _joined(dropped: np.ndarray, brought: np.ndarray | None, labelled: dict[SplitName, Part]) -> np.ndarray:
    """Join rows whose labels were dropped and those that came without, less those that a labelled split has."""
    if brought is not None:
        known = {hashed for part in labelled.values() for hashed in row_hashes(part.x)}
        new = np.array([hashed not in known for hashed in row_hashes(brought)], dtype=bool)
        dropped = np.concatenate([dropped, brought[new]])
    if not len(dropped):
        raise DataError(
            "the split unlabelled has no rows: its share (split.unlabelled) is too small, or every row without a label "
            "repeats a labelled one; raise the share, bring other rows, or leave the split out"
        )
    return dropped


def _no_labels(num_rows: int, task: Task) -> np.ndarray:
    if task == "classification":
        return np.full(num_rows, NO_CLASS, dtype=np.int64)
    return np.full(num_rows, np.nan, dtype=np.float32)
