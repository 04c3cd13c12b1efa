"""The table that expectations are checked on: one row of facts per row of data, whatever its shape.

784 pixel columns say little and cost seconds; their least, largest and mean value, the label, the
share of its class and a hash of the row say what a check needs. A table read from CSV keeps its own
columns beside these. Of a text it is the number of characters, between which and its label a table says little else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets.source import RawTable
from tasks.datasets.splits import row_hashes

if TYPE_CHECKING:
    import pandas as pd

ROW_CHARS = "row_chars"
ROW_MIN = "row_min"
ROW_MAX = "row_max"
ROW_MEAN = "row_mean"
ROW_NON_FINITE = "row_non_finite"
ROW_HASH = "row_hash"
ROW_LABEL = "row_label"
ROW_CLASS_SHARE = "row_class_share"
ROW_TARGET = "row_target"


def validation_view(table: RawTable) -> pd.DataFrame:
    """Summarise `table`, one row each; the columns as read, if any, come first.

    A CSV keeps the rows of the file, before nulls were handled, so that nulls can be judged as they
    were read; the facts about the model's input are null where a row was dropped.
    """
    import pandas as pd

    facts = pd.DataFrame(_row_facts(table) | _target_facts(table))
    if table.frame is None:
        return facts
    read = table.frame
    kept = read.index if len(read) == len(facts) else read.dropna().index
    return read.join(facts.set_index(kept))


def _row_facts(table: RawTable) -> dict[str, object]:
    """Return the columns that describe the model's input, and whether input and target are numbers at all."""
    hashes = [hashed.hex() for hashed in row_hashes(table.x)]
    if table.is_text:
        return {ROW_CHARS: [len(text.strip()) for text in table.x], ROW_HASH: hashes}
    rows = table.x.reshape(len(table.x), -1)
    return {
        ROW_MIN: rows.min(axis=1),
        ROW_MAX: rows.max(axis=1),
        ROW_MEAN: rows.mean(axis=1, dtype=np.float64),
        ROW_NON_FINITE: np.count_nonzero(~np.isfinite(rows), axis=1) + ~np.isfinite(table.y),
        ROW_HASH: hashes,
    }


def _target_facts(table: RawTable) -> dict[str, object]:
    if table.task == "regression":
        return {ROW_TARGET: table.y}
    shares = np.bincount(table.y, minlength=len(table.class_names)) / max(len(table.y), 1)
    return {ROW_LABEL: np.array(table.class_names, dtype=object)[table.y], ROW_CLASS_SHARE: shares[table.y]}
