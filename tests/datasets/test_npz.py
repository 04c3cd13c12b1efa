import numpy as np
import pytest
from pydantic import ValidationError

from tasks.contracts.errors import DataError
from tasks.datasets.npz import Npz


def written(folder, **arrays):
    np.savez(folder / "rows.npz", **arrays)
    return folder


@pytest.fixture
def images():
    return np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)


def test_load_scales_and_adds_a_channel_axis_when_images_have_none(tmp_path, images):
    written(tmp_path, x=images, y=np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8))

    table = Npz(name="n", path="rows.npz", scale=1 / 255).load(tmp_path)

    assert table.x.shape == (6, 1, 4, 5)
    assert table.x.dtype == np.float32
    assert table.y.dtype == np.int64
    np.testing.assert_allclose(table.x[:, 0], images / 255, rtol=1e-6)
    assert table.class_names == ("0", "1", "2")
    assert table.test_rows is None


def test_load_takes_the_test_pair_as_the_test_rows(tmp_path, images):
    arrays = {"train_x": images[:4], "train_y": [0, 1, 0, 1], "test_x": images[4:], "test_y": [[1], [0]]}
    written(tmp_path, **arrays)

    table = Npz(name="n", path="rows.npz", x="train_x", y="train_y", x_test="test_x", y_test="test_y").load(tmp_path)

    assert table.test_rows.tolist() == [False] * 4 + [True] * 2
    assert table.y.tolist() == [0, 1, 0, 1, 1, 0]
    np.testing.assert_array_equal(table.x[:, 0], images)


def test_load_moves_channels_first_when_they_are_last(tmp_path):
    x = np.random.default_rng(0).random((3, 4, 5, 2), dtype=np.float32)
    written(tmp_path, x=x, y=np.arange(3))

    table = Npz(name="n", path="rows.npz", channels_last=True).load(tmp_path)

    assert table.x.flags.c_contiguous
    np.testing.assert_array_equal(table.x[1, 1], x[1, :, :, 1])


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        (np.array([10, 2, 10, 7]), ("2", "7", "10"), [2, 0, 2, 1]),
        (np.array(["cat", "ant", "cat", "bee"]), ("ant", "bee", "cat"), [2, 0, 2, 1]),
        (np.array([True, False, True, True]), ("0", "1"), [1, 0, 1, 1]),
        (np.array([1.0, 0.0, 1.0, 0.0]), ("0", "1"), [1, 0, 1, 0]),
    ],
)
def test_load_encodes_labels_in_their_natural_order(tmp_path, labels, names, indices):
    written(tmp_path, x=np.ones((4, 3)), y=labels)

    table = Npz(name="n", path="rows.npz").load(tmp_path)

    assert table.class_names == names
    assert table.y.tolist() == indices


def test_load_gives_float_targets_when_the_task_is_regression(tmp_path):
    written(tmp_path, x=np.ones((2, 3)), y=np.array([0.25, 4]))

    table = Npz(name="n", path="rows.npz", task="regression").load(tmp_path)

    assert (table.y.dtype, table.y.tolist(), table.class_names) == (np.float32, [0.25, 4.0], ())


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"a": np.ones(3)}, {}, r"has no array \['x', 'y'\]; it holds \['a'\]"),
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, {}, r"shape \(3, 2\).*shape \(4,\)"),
        ({"x": np.ones((3, 2)), "y": [0.5, 1, 2]}, {}, "fractions"),
        ({"x": np.ones((3, 2)), "y": [0, 1, 5]}, {"class_names": ("a", "b")}, "from 0 to 5.*2 classes"),
        ({"x": np.ones((2, 2)), "y": ["a", "c"]}, {"class_names": ("a", "b")}, r"\['c'\] are not among"),
        ({"x": np.array([["a"], ["b"]]), "y": [0, 1]}, {}, "must be real numbers"),
        ({"x": np.ones((2, 2)), "y": [0, 1]}, {"channels_last": True}, "channels_last needs"),
        ({"x": np.ones((2, 2)), "y": ["a", "b"]}, {"task": "regression"}, "must be numbers"),
    ],
)
def test_load_says_what_is_wrong_when_the_arrays_do_not_fit(tmp_path, arrays, fields, message):
    written(tmp_path, **{name: np.asarray(array) for name, array in arrays.items()})

    with pytest.raises(DataError, match=message) as raised:
        Npz(name="n", path="rows.npz", **fields).load(tmp_path)
    assert str(tmp_path / "rows.npz") in str(raised.value)


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.99])
def test_load_names_the_file_when_it_is_truncated(tmp_path, images, keep):
    written(tmp_path, x=np.repeat(images, 50, axis=0), y=np.zeros(300))
    path = tmp_path / "rows.npz"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])

    with pytest.raises(DataError, match=r"rows\.npz cannot be read as \.npz"):
        Npz(name="n", path="rows.npz").load(tmp_path)


def test_load_names_the_file_when_a_byte_of_an_array_was_changed(tmp_path, images):
    written(tmp_path, x=np.repeat(images, 50, axis=0), y=np.zeros(300))
    path = tmp_path / "rows.npz"
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(DataError, match=r"rows\.npz cannot be read as \.npz"):
        Npz(name="n", path="rows.npz").load(tmp_path)


def test_load_refuses_pickled_arrays(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.array([{}, {}], dtype=object), y=np.arange(2))

    with pytest.raises(DataError, match="cannot be read"):
        Npz(name="n", path="rows.npz").load(tmp_path)


def test_load_refuses_a_single_array(tmp_path):
    with (tmp_path / "rows.npz").open("wb") as file:
        np.save(file, np.ones(3))

    with pytest.raises(DataError, match="a single array"):
        Npz(name="n", path="rows.npz").load(tmp_path)


def test_npz_is_refused_when_only_one_test_array_is_named():
    with pytest.raises(ValidationError, match="come together"):
        Npz(name="n", path="rows.npz", x_test="a")
