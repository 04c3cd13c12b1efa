from pathlib import Path

import numpy as np
import pandas as pd

from tasks.datasets.source import RawTable
from tasks.datasets.view import validation_view


def test_validation_view_summarises_images_row_by_row():
    x = np.zeros((3, 1, 2, 2), dtype=np.float32)
    x[0, 0] = [[1, 2], [3, 6]]
    x[1, 0, 0, 0] = np.inf
    table = RawTable(x, np.array([1, 0, 1]), "classification", ("a", "b"), (Path("x"),))

    view = validation_view(table)

    assert view.row_min.tolist() == [1, 0, 0]
    assert view.row_max.tolist() == [6, np.inf, 0]
    assert view.row_mean[0] == 3
    assert view.row_non_finite.tolist() == [0, 1, 0]
    assert view.row_label.tolist() == ["b", "a", "b"]
    assert view.row_class_share.tolist() == [2 / 3, 1 / 3, 2 / 3]
    assert view.row_hash.nunique() == 3


def test_validation_view_keeps_the_columns_as_read_and_aligns_facts_when_rows_were_dropped():
    frame = pd.DataFrame({"a": [1.0, np.nan, 3.0], "price": [10.0, 20.0, 30.0]})
    x, y = np.array([[1], [3]], dtype=np.float32), np.array([10, np.nan], dtype=np.float32)
    table = RawTable(x, y, "regression", (), (Path("x"),), frame=frame, target="price")

    view = validation_view(table)

    assert view.a.isna().tolist() == [False, True, False]
    assert view.row_max[[0, 2]].tolist() == [1, 3]
    assert np.isnan(view.row_max[1])
    assert view.row_non_finite[[0, 2]].tolist() == [0, 1]
