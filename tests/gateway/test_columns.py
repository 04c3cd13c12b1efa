import numpy as np
import pyarrow as pa
import pytest

from infra.gateway import columns
from infra.gateway.columns import blobs, column, listed

TIME = pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, -(2**62), 0], pa.int64()),
        (np.arange(20)[::3], pa.int64()),
        ([0.5, float("nan"), -1e300], pa.float64()),
        (np.ones((5, 2), np.float32)[:, 1], pa.float64()),
        ([True, False, True, True, False, False, True, False, True], pa.bool_()),
        ([1_700_000_000_000_000, 0], TIME),
        (["a", "", "ab"], pa.string()),
        (["a", None, "ä€𝄞", ""], pa.string()),
        ([None, None], pa.string()),
        ([None] * 9 + ["x"], pa.string()),
        ([], pa.string()),
        ([], pa.int64()),
        ([], pa.bool_()),
    ],
)
def test_column_is_what_pyarrow_makes_of_the_values(values, kind):
    expected = pa.array(values, kind)
    found = column(values, kind)
    found.validate(full=True)
    assert found.type == kind
    assert found.null_count == expected.null_count
    assert repr(found.to_pylist()) == repr(expected.to_pylist())


def test_listed_has_a_list_for_each_row():
    rows = np.random.default_rng(0).random((4, 16)).astype(np.float32)[:, ::2]
    found = listed(rows)
    found.validate(full=True)
    assert found.type == pa.list_(pa.float32())
    np.testing.assert_array_equal(np.array(found.to_pylist(), np.float32), rows)


def test_blobs_has_the_bytes_of_each_row():
    rows = np.random.default_rng(0).random((3, 2, 5))
    found = blobs(rows)
    found.validate(full=True)
    assert found.to_pylist() == [row.tobytes() for row in rows]


def test_a_column_that_cannot_hold_its_bytes_is_refused(monkeypatch):
    monkeypatch.setattr(columns, "_MOST_BYTES", 7)
    assert column(["abc", "defg"], pa.string()).to_pylist() == ["abc", "defg"]
    with pytest.raises(ValueError, match="write smaller segments"):
        column(["abc", "defgh"], pa.string())
