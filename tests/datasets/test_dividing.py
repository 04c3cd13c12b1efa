from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.data import LABELLED_SPLIT_NAMES
from tasks.contracts.errors import DataError
from tasks.datasets.csv import Csv
from tasks.datasets.dividing import divide
from tasks.datasets.npz import Npz
from tasks.datasets.source import RawTable, SplitFractions

WITH_UNLABELLED = SplitFractions(train=0.3, calibration=0.1, validation=0.1, test=0.2, unlabelled=0.3)


def table(num_rows: int = 200, task: str = "classification", **changes: object) -> RawTable:
    x = np.arange(num_rows, dtype=np.float32)[:, None]
    y = np.arange(num_rows) % 2 if task == "classification" else x[:, 0]
    names = ("a", "b") if task == "classification" else ()
    return RawTable(x, y, task, names, (Path("x"),), **changes)  # type: ignore[arg-type]


def test_divide_gives_no_unlabelled_split_unless_it_is_asked_for() -> None:
    assert tuple(divide(table(), SplitFractions(), 0)) == LABELLED_SPLIT_NAMES


def test_divide_drops_the_labels_of_a_share() -> None:
    parts = divide(table(), WITH_UNLABELLED, 0)

    assert len(parts["unlabelled"].x) == 60
    assert set(parts["unlabelled"].y) == {-1}
    assert len(np.unique(np.concatenate([part.x for part in parts.values()]))) == 200


def test_divide_marks_missing_targets_as_nan_when_the_task_is_regression() -> None:
    unlabelled = divide(table(task="regression"), WITH_UNLABELLED, 0)["unlabelled"]

    assert unlabelled.y.dtype == np.float32
    assert np.isnan(unlabelled.y).all()


def test_divide_leaves_out_brought_rows_that_a_labelled_split_has() -> None:
    brought = np.array([[5], [1000], [199], [1001]], dtype=np.float32)

    parts = divide(table(unlabelled=brought), SplitFractions(), 0)
    both = divide(table(unlabelled=brought), WITH_UNLABELLED, 0)

    assert parts["unlabelled"].x[:, 0].tolist() == [1000, 1001]
    assert both["unlabelled"].x[-2:, 0].tolist() == [1000, 1001]
    labelled = np.concatenate([both[name].x for name in LABELLED_SPLIT_NAMES])
    assert not np.isin(both["unlabelled"].x, labelled).any()


def test_divide_names_the_remedy_when_no_unlabelled_row_is_left() -> None:
    with pytest.raises(DataError, match="the split unlabelled has no rows"):
        divide(table(unlabelled=np.array([[5]], dtype=np.float32)), SplitFractions(), 0)


def test_divide_keeps_fixed_validation_and_test_rows() -> None:
    rows = np.arange(200)

    parts = divide(table(test_rows=rows >= 180, validation_rows=rows < 30), WITH_UNLABELLED, 0)

    assert parts["test"].x[:, 0].tolist() == list(range(180, 200))
    assert parts["validation"].x[:, 0].tolist() == list(range(30))
    sizes = {name: len(part.x) for name, part in parts.items()}
    assert sizes == {"train": 64, "calibration": 22, "validation": 30, "test": 20, "unlabelled": 64}


def test_divide_refuses_rows_that_stand_in_two_fixed_parts() -> None:
    doubled = RawTable(
        np.array([[0], [1], [2], [3]] * 10 + [[7], [7]], dtype=np.float32), np.arange(42) % 2, "classification",
        ("a", "b"), (Path("x"),), test_rows=np.arange(42) == 41, validation_rows=np.arange(42) == 40,
    )  # fmt: skip

    with pytest.raises(DataError, match="1 rows of test are also in validation"):
        divide(doubled, SplitFractions(), 0)


def test_npz_scales_unlabelled_rows_as_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "l.npz", x=rng.integers(0, 255, (50, 3, 3), dtype=np.uint8), y=np.arange(50) % 2)
    np.savez(tmp_path / "u.npz", x=np.full((4, 3, 3), 51, dtype=np.uint8))
    source = Npz(name="n", path="l.npz", unlabelled="u.npz", scale=1 / 255)

    loaded = source.load(tmp_path)

    assert loaded.unlabelled is not None
    assert loaded.unlabelled.shape == (4, 1, 3, 3)
    assert loaded.unlabelled.mean() == pytest.approx(0.2)
    np.savez(tmp_path / "u.npz", x=np.full((4, 2, 3), 51, dtype=np.uint8))
    with pytest.raises(DataError, match=r"u\.npz: array 'x' holds rows of shape \(1, 2, 3\)"):
        source.load(tmp_path)


def test_csv_reads_unlabelled_rows_with_columns_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("a,kind,price\n" + "".join(f"{n},u,{n}\n" for n in range(30)))
    (tmp_path / "u.csv").write_text("kind,extra,a\nv,7,3.5\nu,8,4.5\n")
    source = Csv(
        name="c", path="l.csv", unlabelled="u.csv", task="regression", target="price", categorical={"kind": ("u", "v")}
    )

    loaded = source.load(tmp_path)

    assert loaded.unlabelled is not None
    assert loaded.unlabelled.tolist() == [[3.5, 0, 1], [4.5, 1, 0]]
    (tmp_path / "u.csv").write_text("kind\nv\n")
    with pytest.raises(DataError, match=r"u\.csv has no column \['a'\]"):
        source.load(tmp_path)
    (tmp_path / "u.csv").write_text("kind,a\nv,text\n")
    with pytest.raises(DataError, match=r"u\.csv: column 'a' holds text"):
        source.load(tmp_path)
