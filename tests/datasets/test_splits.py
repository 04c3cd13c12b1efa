import io
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts.errors import DataError
from tasks.datasets.source import RawTable, SplitFractions
from tasks.datasets.splits import (
    check_composition,
    check_leakage,
    composition,
    pack_split,
    row_hashes,
    split_rows,
)

FRACTIONS = SplitFractions(train=0.5, calibration=0.1, validation=0.15, test=0.25)


def classified(x, y, test_rows=None):
    x, y = np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.int64)
    names = tuple(str(index) for index in range(int(y.max()) + 1))
    return RawTable(x, y, "classification", names, (Path("x"),), test_rows=test_rows)


@st.composite
def tables(draw):
    """Rows drawn from few values, so that equal rows, also with different labels, are common."""
    num_rows = draw(st.integers(8, 120))
    values = draw(st.lists(st.integers(0, draw(st.integers(3, 200))), min_size=num_rows, max_size=num_rows))
    labels = draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows))
    return classified(np.array(values)[:, None], labels)


@given(tables(), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_split_rows_is_disjoint_exhaustive_and_keeps_equal_rows_together(table, seed):
    splits = split_rows(table, FRACTIONS, seed)

    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(table.y)))
    values = {name: set(table.x[rows, 0].tolist()) for name, rows in splits.items()}
    assert all(values[first].isdisjoint(values[second]) for first, second in combinations(values, 2))
    check_leakage({name: table.x[rows] for name, rows in splits.items()})


@given(
    st.lists(st.integers(0, 3), min_size=20, max_size=300),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_split_rows_is_stratified_to_within_one_row_when_rows_differ(labels, seed):
    table = classified(np.arange(len(labels))[:, None], labels)

    splits = split_rows(table, FRACTIONS, seed)

    for name, rows in splits.items():
        counts = np.bincount(table.y[rows], minlength=4)
        exact = np.bincount(table.y, minlength=4) * FRACTIONS.by_name[name]
        assert np.all(np.abs(counts - exact) <= 1)


def test_split_rows_spreads_the_target_evenly_when_the_task_is_regression():
    y = np.random.default_rng(0).gamma(1.0, 100.0, 2000).astype(np.float32)
    table = RawTable(np.arange(2000, dtype=np.float32)[:, None], y, "regression", (), (Path("x"),))

    splits = split_rows(table, FRACTIONS, 3)

    for name, rows in splits.items():
        counts = composition(y[rows], table)
        assert list(counts) == ["q1", "q2", "q3", "q4"]
        assert all(abs(count - 500 * FRACTIONS.by_name[name]) <= 6 for count in counts.values())


def test_split_rows_ignores_the_order_of_the_file():
    table = classified(np.arange(200)[:, None], np.arange(200) % 2)
    order = np.random.default_rng(1).permutation(200)
    shuffled = classified(table.x[order], table.y[order])

    chosen, again = split_rows(table, FRACTIONS, 5), split_rows(shuffled, FRACTIONS, 5)

    assert {name: set(table.x[rows, 0]) for name, rows in chosen.items()} == {
        name: set(shuffled.x[rows, 0]) for name, rows in again.items()
    }


def test_split_rows_leaves_most_rows_in_place_when_rows_are_added():
    before = classified(np.arange(1000)[:, None], np.zeros(1000))
    after = classified(np.arange(1050)[:, None], np.zeros(1050))

    old, new = split_rows(before, FRACTIONS, 0), split_rows(after, FRACTIONS, 0)

    stayed = sum(len(np.intersect1d(old[name], new[name])) for name in old)
    assert stayed >= 950


def test_split_rows_depends_on_the_seed():
    table = classified(np.arange(100)[:, None], np.zeros(100))

    assert split_rows(table, FRACTIONS, 0)["test"].tolist() == split_rows(table, FRACTIONS, 0)["test"].tolist()
    assert split_rows(table, FRACTIONS, 0)["test"].tolist() != split_rows(table, FRACTIONS, 1)["test"].tolist()


def test_split_rows_stays_the_same_across_versions():
    """Golden: if this changes, every user's splits change."""
    table = classified(np.arange(12)[:, None], np.zeros(12))

    splits = {name: rows.tolist() for name, rows in split_rows(table, SplitFractions(), 7).items()}

    assert splits == {
        "train": [0, 2, 3, 5, 8, 9, 11],
        "calibration": [10],
        "validation": [1, 6],
        "test": [4, 7],
    }


def test_split_rows_takes_given_test_rows_as_they_stand():
    given_test = np.arange(100) >= 80
    table = classified(np.arange(100)[:, None], np.arange(100) % 2, test_rows=given_test)

    splits = split_rows(table, FRACTIONS, 0)

    assert splits["test"].tolist() == list(range(80, 100))
    assert {name: len(rows) for name, rows in splits.items() if name != "test"} == pytest.approx(
        {"train": 80 * 0.5 / 0.75, "calibration": 80 * 0.1 / 0.75, "validation": 80 * 0.15 / 0.75}, abs=2
    )


def test_check_leakage_names_the_splits_and_counts_when_rows_were_planted():
    rng = np.random.default_rng(0)
    train, test = rng.random((50, 2, 3), dtype=np.float32), rng.random((20, 2, 3), dtype=np.float32)
    test[[3, 8, 9]] = train[[1, 1, 40]]

    with pytest.raises(DataError, match="3 rows of test are also in train"):
        check_leakage({"train": train, "validation": rng.random((9, 2, 3), dtype=np.float32), "test": test})


def test_check_leakage_ignores_repeats_within_a_split():
    check_leakage({"train": np.ones((4, 2), dtype=np.float32), "test": np.zeros((4, 2), dtype=np.float32)})


def test_check_composition_names_the_class_that_a_split_lacks():
    with pytest.raises(DataError, match=r"split calibration has no row of class b; raise its share"):
        check_composition("d", "classification", {"train": {"a": 3, "b": 2}, "calibration": {"a": 1, "b": 0}})


def test_check_composition_names_the_split_that_has_no_rows():
    with pytest.raises(DataError, match="split test has no rows"):
        check_composition("d", "regression", {"train": {"q1": 3}, "test": {"q1": 0, "q2": 0}})


def test_pack_split_gives_equal_bytes_for_equal_arrays():
    x, y = np.random.default_rng(0).random((5, 3), dtype=np.float32), np.arange(5)

    packed = pack_split(x, y)

    assert packed == pack_split(np.asfortranarray(x), y.copy())
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], x)
        np.testing.assert_array_equal(arrays["y"], y)


def test_row_hashes_differ_exactly_where_rows_differ():
    x = np.array([[1, 2], [2, 1], [1, 2]], dtype=np.float32)

    assert sorted(Counter(row_hashes(x)).values()) == [1, 2]
