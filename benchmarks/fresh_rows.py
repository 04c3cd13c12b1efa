"""Test rows that no design was judged by: drawn from rows that so far were only trained on.

A test split is worth less each time that a choice is made with its figures known. Where that has happened, rows of
the train split, whose held-out figures nobody has seen, can stand in its place; the rows of the spent test split are
trained on instead, so that no row is lost. N is the number of all rows.
"""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from tasks.contracts.errors import DataError
from tasks.datasets.npz import Npz
from tasks.datasets.splits import row_hashes, split_rows

_KEY = b"test rows that no design has met"


def exchange_test_rows(source: Npz, seed: int, num_rows: int, target: Path) -> None:
    """Write the rows of `source` as `target`, with other rows as its test part.

    Args:
        source: images or tables with a test part of their own; its `path` is absolute.
        seed: of the plan whose designs are to meet fresh rows: its train split is what the rows are drawn from.
        num_rows: rows of the new test part; each class gives the same number.
        target: the `.npz` file, with the arrays that `source` names; equal bytes for equal rows.

    Raises:
        DataError: a class has too few rows that were trained on and stand in the source once only.
    """
    if source.x_test is None or source.y_test is None:
        raise DataError(f"{source.path} has no test part of its own; set x_test and y_test")
    table = source.load(Path())
    hashes = row_hashes(table.x)
    train = split_rows(table, source.split, seed)["train"]
    drawn = _drawn(train, table.y, hashes, num_rows)
    with np.load(source.path, allow_pickle=False) as archive:
        x = np.concatenate([archive[source.x], archive[source.x_test]])
        y = np.concatenate([archive[source.y], archive[source.y_test]])
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            **{source.x: x[~drawn], source.y: y[~drawn], source.x_test: x[drawn], source.y_test: y[drawn]},
        )


def _drawn(train: np.ndarray, y: np.ndarray, hashes: list[bytes], num_rows: int) -> np.ndarray:
    """Return bool [N]: the first rows of each class by a keyed hash of their content, none of which stands twice."""
    copies = Counter(hashes)
    classes = np.unique(y)
    drawn = np.zeros(len(y), dtype=bool)
    for label in classes:
        once = [row for row in train[y[train] == label] if copies[hashes[row]] == 1]
        wanted = num_rows // len(classes)
        if len(once) <= wanted:
            raise DataError(
                f"class {label} has {len(once)} rows to draw from, but {wanted} are wanted and some must be left to "
                "train on; ask for fewer rows"
            )
        drawn[
            sorted(once, key=lambda row: hashlib.blake2b(hashes[row], key=_KEY, digest_size=16).digest())[:wanted]
        ] = True
    return drawn
