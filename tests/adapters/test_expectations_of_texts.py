from pathlib import Path

import numpy as np

from tasks.adapters.expectations import build_suite
from tasks.datasets.source import RawTable
from tasks.datasets.text import TextExpectations
from tasks.datasets.view import ROW_CHARS, validation_view


def test_build_suite_judges_texts_by_their_characters_labels_and_repetitions() -> None:
    texts = np.array(["play", "Play ", "stop it", " "], dtype=object)
    table = RawTable(
        texts, np.array([0, 0, 1, 1]), "classification", ("on", "off"), (Path("t"),), make_tokenizer=lambda _: b""
    )

    rows = validation_view(table)
    suite = build_suite("t", rows, table, TextExpectations(max_chars=9))

    assert rows[ROW_CHARS].tolist() == [4, 4, 7, 0]
    assert rows.row_hash.nunique() == 3
    (chars,) = [one for one in suite.expectations if getattr(one, "column", "") == ROW_CHARS]
    assert (chars.min_value, chars.max_value) == (1, 9)
    assert {"row_hash", "row_label", "row_class_share"} <= {getattr(one, "column", "") for one in suite.expectations}
