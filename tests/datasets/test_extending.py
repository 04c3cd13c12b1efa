from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.datasets.assignment import assignment_of, pack_assignment, read_assignment
from tasks.datasets.extending import checked_labels, extend
from tasks.datasets.source import RawTable, SplitFractions
from tasks.datasets.splits import row_hashes, split_rows

FRACTIONS = SplitFractions(train=0.4, calibration=0.1, validation=0.2, test=0.3)


def table(x, y):
    x, y = np.asarray(x, np.float32)[:, None], np.asarray(y, np.int64)
    return RawTable(x, y, "classification", ("a", "b"), (Path("x"),))


@pytest.fixture
def base():
    return table(np.arange(100), np.arange(100) % 2)


@pytest.fixture
def assignment(base):
    return assignment_of(base.x, split_rows(base, FRACTIONS, 0))


def test_extend_keeps_the_split_of_old_rows_and_gives_each_split_its_share_of_new_ones(base, assignment):
    new = table(np.arange(1000, 1200), np.arange(200) % 2)

    extension = extend(base, assignment, new.x, new.y.astype(float), FRACTIONS, 0)

    assert {hashed: extension.assignment[hashed] for hashed in assignment} == assignment
    assert extension.num_new == {"train": 80, "calibration": 20, "validation": 40, "test": 60}
    assert len(extension.assignment) == 300
    assert (extension.repeated, extension.held_out) == (0, 0)
    together = table(np.r_[np.arange(100), np.arange(1000, 1200)], np.r_[base.y, new.y])
    divided = split_rows(together, FRACTIONS, 0, extension.assignment)
    assert {name: len(rows) for name, rows in divided.items()} == {
        "train": 120, "calibration": 30, "validation": 60, "test": 90,
    }  # fmt: skip


def test_extend_leaves_out_rows_of_the_base_and_counts_those_that_are_judged_on(base, assignment):
    judged = sum(split in ("validation", "test") for split in assignment.values())

    extension = extend(base, assignment, base.x, 1.0 - base.y, FRACTIONS, 0)

    assert len(extension.x) == 0
    assert (extension.held_out, extension.repeated) == (judged, 100 - judged)
    assert extension.assignment == assignment


def test_extend_takes_the_last_of_equal_rows(base, assignment):
    x = np.array([[500], [501], [500]], np.float32)

    extension = extend(base, assignment, x, np.array([0.0, 1.0, 1.0]), FRACTIONS, 0)

    assert extension.x.tolist() == [[501], [500]]
    assert extension.y.tolist() == [1, 1]
    assert extension.repeated == 1


@pytest.mark.parametrize(("label", "told"), [(2.0, "2"), (-1.0, "-1"), (0.5, "0.5"), (np.nan, "nan")])
def test_extend_names_labels_that_are_no_class(base, assignment, label, told):
    with pytest.raises(DataError, match=rf"1 of 2 labels are no class indices 0 to 1, such as {told}"):
        extend(base, assignment, np.ones((2, 1), np.float32), np.array([0.0, label]), FRACTIONS, 0)


def test_checked_labels_takes_any_finite_number_for_regression():
    assert checked_labels(np.array([-2.5, 1e6]), "regression", ()).tolist() == [-2.5, 1e6]
    with pytest.raises(DataError, match="no finite numbers"):
        checked_labels(np.array([np.inf]), "regression", ())


def test_an_assignment_is_read_back_and_equal_ones_give_equal_bytes(tmp_path, base, assignment):
    (tmp_path / "s.npz").write_bytes(pack_assignment(assignment))

    assert read_assignment(tmp_path / "s.npz") == assignment
    assert pack_assignment(dict(reversed(assignment.items()))) == pack_assignment(assignment)


def test_read_assignment_says_what_a_file_that_is_none_should_be(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.ones(3))
    with pytest.raises(DataError, match="stillhouse data publish"):
        read_assignment(tmp_path / "s.npz")


def test_split_rows_refuses_rows_that_the_assignment_does_not_name(base, assignment):
    del assignment[row_hashes(base.x)[0]]
    with pytest.raises(DataError, match="1 of 100 rows are not in the file"):
        split_rows(base, FRACTIONS, 0, assignment)
