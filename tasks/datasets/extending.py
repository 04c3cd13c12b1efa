"""Adding labelled rows to a data set: which of them are new, and which split each goes to.

Policy: a row of the base keeps its split, so that no model that learned from it is judged on it. A row that repeats
one of the base is left out, above all one of its test or validation split. New rows are dealt to the splits among
themselves, by the keyed hash and the shares that divide the base: each split, test included, gets its share of them.
"""

from dataclasses import dataclass

import numpy as np

from tasks.contracts.data import SplitName, Task
from tasks.contracts.errors import DataError
from tasks.datasets.assignment import Assignment, assignment_of
from tasks.datasets.source import RawTable, SplitFractions
from tasks.datasets.splits import row_hashes, split_rows

_JUDGED: tuple[SplitName, ...] = ("validation", "test")
_MAX_NAMED = 5


@dataclass(frozen=True)
class Extension:
    """New rows and what became of the others.

    Attributes:
        x: [M, ...], of the kind of the base's rows.
        y: [M], int64 class indices or float32 targets.
        assignment: of the base's rows and the new ones.
        num_new: new rows by split.
        repeated: rows left out because the base has them in another split than those that are judged on, or
            because a later one of the batch is equal.
        held_out: rows left out because they stand in the base's test or validation split.
    """

    x: np.ndarray
    y: np.ndarray
    assignment: Assignment
    num_new: dict[SplitName, int]
    repeated: int
    held_out: int


def extend(
    base: RawTable, assignment: Assignment, x: np.ndarray, y: np.ndarray, fractions: SplitFractions, seed: int
) -> Extension:
    """Find the new rows among `x` [N, ...] and deal them to the splits; of equal rows the last one counts.

    Args:
        base: the rows that are there.
        assignment: their splits.
        x: labelled rows, oldest first.
        y: float64 [N], class indices or targets.
        fractions: the shares that divide the base.
        seed: likewise.

    Raises:
        DataError: a label is no class or no number.
    """
    labels = checked_labels(y, base.task, base.class_names)
    hashes = row_hashes(x)
    last = {hashed: row for row, hashed in enumerate(hashes)}
    new = np.array(sorted(row for hashed, row in last.items() if hashed not in assignment), dtype=np.int64)
    held_out = sum(assignment.get(hashed) in _JUDGED for hashed in hashes)
    table = RawTable(x=x[new], y=labels[new], task=base.task, class_names=base.class_names, paths=())
    rows = split_rows(table, fractions, seed) if len(new) else {}
    return Extension(
        x=table.x,
        y=table.y,
        assignment={**assignment, **assignment_of(table.x, rows)},
        num_new={name: len(chosen) for name, chosen in rows.items()},
        repeated=len(hashes) - len(new) - held_out,
        held_out=held_out,
    )


def checked_labels(y: np.ndarray, task: Task, class_names: tuple[str, ...]) -> np.ndarray:
    """Return labels [N] as the data set holds them: int64 class indices, or float32 targets.

    Raises:
        DataError: one is no class or no finite number.
    """
    values = np.asarray(y, dtype=np.float64)
    good = np.isfinite(values)
    if task == "classification":
        good &= (values == np.round(values)) & (values >= 0) & (values < len(class_names))
    if not good.all():
        wanted = f"class indices 0 to {len(class_names) - 1}" if task == "classification" else "finite numbers"
        odd = ", ".join(f"{value:g}" for value in np.unique(values[~good])[:_MAX_NAMED])
        raise DataError(
            f"{int((~good).sum())} of {len(values)} labels are no {wanted}, such as {odd}; mend what sends the "
            "feedback, and give the right labels for these requests: the last label of a row counts"
        )
    return values.astype(np.int64) if task == "classification" else values.astype(np.float32)
