from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.datasets.npz import Npz
from tasks.datasets.splits import row_hashes, split_rows

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))  # benchmarks are run from the checkout and not installed


def source(folder: Path, num_rows: int = 200, copies: int = 0) -> Npz:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (num_rows + 40, 4, 4)).astype(np.uint8)
    y = np.arange(len(x)) % 2
    x[: 2 * copies : 2] = x[0]  # of class 0
    path = folder / "rows.npz"
    np.savez(path, train_x=x[:num_rows], train_y=y[:num_rows], test_x=x[num_rows:], test_y=y[num_rows:])
    return Npz(name="rows", path=str(path), x="train_x", y="train_y", x_test="test_x", y_test="test_y")


def hashes(path: Path, name: str) -> set[bytes]:
    with np.load(path) as archive:
        return set(row_hashes(archive[name].astype(np.float32)))


def test_exchange_test_rows_draws_from_rows_that_were_only_trained_on(tmp_path: Path) -> None:
    from benchmarks.fresh_rows import exchange_test_rows

    given = source(tmp_path)
    target = tmp_path / "home" / "fresh.npz"
    exchange_test_rows(given, 0, 20, target)

    table = given.load(tmp_path)
    splits = {name: set(row_hashes(table.x[rows])) for name, rows in split_rows(table, given.split, 0).items()}
    fresh, rest = hashes(target, "test_x"), hashes(target, "train_x")
    assert fresh <= splits["train"]
    assert splits["test"] | splits["validation"] | splits["calibration"] <= rest
    assert fresh | rest == set(row_hashes(table.x))
    assert not fresh & rest
    with np.load(target) as archive:
        assert np.bincount(archive["test_y"]).tolist() == [10, 10]
        assert len(archive["train_y"]) == len(table.y) - 20


def test_exchange_test_rows_writes_equal_bytes_and_never_a_row_that_stands_twice(tmp_path: Path) -> None:
    from benchmarks.fresh_rows import exchange_test_rows

    given = source(tmp_path, copies=30)
    for name in ("one.npz", "two.npz"):
        exchange_test_rows(given, 0, 20, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    table = given.load(tmp_path)
    assert row_hashes(table.x[:1])[0] not in hashes(tmp_path / "one.npz", "test_x")


def test_exchange_test_rows_refuses_to_take_every_row_of_a_class(tmp_path: Path) -> None:
    from benchmarks.fresh_rows import exchange_test_rows

    with pytest.raises(DataError, match=r"class 0 has .* rows to draw from, but 100 are wanted"):
        exchange_test_rows(source(tmp_path), 0, 200, tmp_path / "fresh.npz")


def test_exchange_test_rows_refuses_a_source_without_a_test_part(tmp_path: Path) -> None:
    from benchmarks.fresh_rows import exchange_test_rows

    given = source(tmp_path).model_copy(update={"x_test": None, "y_test": None})
    with pytest.raises(DataError, match="no test part"):
        exchange_test_rows(given, 0, 20, tmp_path / "fresh.npz")
