"""Turning rows of the model's input back into lines of the CSV file that the others came from."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts.errors import DataError
from tasks.datasets.csv import Csv
from tasks.datasets.source import RawTable

if TYPE_CHECKING:
    import pandas as pd


def append_rows(source: Csv, base: RawTable, x: np.ndarray, y: np.ndarray) -> bytes:
    """Return the base's file with a line for each row of `x` [N, F]; excluded columns stay empty there.

    A number is written with the digits that give the same float32 again, a one-hot block as its category.

    Args:
        source: how the file is read.
        base: the rows of the file.
        x: new rows, numeric inputs first, then the one-hot blocks, as `Csv` reads them.
        y: class indices or targets of the new rows.

    Raises:
        DataError: a one-hot block of a row does not name exactly one category.
    """
    assert base.frame is not None, "a table comes from a file with columns"
    content = base.paths[0].read_bytes()
    content += b"" if content.endswith(b"\n") else b"\n"
    header = next(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    columns = _columns(source, base.frame, x) | {source.target: _targets(source, base, y)}
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    empty = [""] * len(x)
    writer.writerows(zip(*(columns.get(name, empty) for name in header), strict=True))
    return content + lines.getvalue().encode()


def _columns(source: Csv, frame: pd.DataFrame, x: np.ndarray) -> dict[str, list[str]]:
    named = {source.target, *source.categorical}
    numeric = [str(name) for name in frame.columns if name not in named]
    columns = {name: [shortest(value) for value in x[:, position]] for position, name in enumerate(numeric)}
    start = len(numeric)
    for name, vocabulary in source.categorical.items():
        block = x[:, start : start + len(vocabulary)]
        odd = ~(((block == 0) | (block == 1)).all(axis=1) & (block.sum(axis=1) == 1))
        if odd.any():
            raise DataError(
                f"{int(odd.sum())} of {len(x)} rows name no category, or several, of column {name!r}; its inputs "
                f"{start} to {start + len(vocabulary) - 1} must be 0 but for one 1, in the order {list(vocabulary)}"
            )
        columns[name] = [vocabulary[choice] for choice in block.argmax(axis=1)]
        start += len(vocabulary)
    return columns


def _targets(source: Csv, base: RawTable, y: np.ndarray) -> list[str]:
    assert base.frame is not None
    if base.task == "regression":
        return [shortest(value) for value in y / np.float32(source.target_scale)]
    from pandas.api.types import is_numeric_dtype

    if source.class_names and is_numeric_dtype(base.frame[source.target]):
        return [str(index) for index in y.tolist()]
    return [base.class_names[index] for index in y.tolist()]


def shortest(value: np.floating) -> str:
    """Write a float32 with the fewest digits that are read as the same float32; whole numbers without a point."""
    number = np.float32(value)
    if number == 0 and np.signbit(number):
        return "-0.0"
    return str(int(number)) if number == np.rint(number) and abs(number) < 2**24 else str(number)
