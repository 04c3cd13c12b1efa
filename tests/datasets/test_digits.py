from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks.adapters.dvc import tracked_revision
from tasks.contracts.errors import DataError
from tasks.datasets import materialise_shipped
from tasks.datasets.digits import Digits
from tasks.datasets.revision import folder_revision

CHECKOUT = Path(__file__).parents[2]


def test_materialise_shipped_rebuilds_the_committed_revision_byte_for_byte(tmp_path):
    materialise_shipped(tmp_path / "data")

    assert folder_revision(tmp_path / "data") == tracked_revision(CHECKOUT)


def test_load_gives_shades_between_0_and_1_with_a_channel_axis(tmp_path):
    Digits().materialise(tmp_path / "data")

    table = Digits().load(tmp_path)

    assert table.x.shape == (1797, 1, 8, 8)
    assert table.x.dtype == np.float32
    assert table.input_shape == (1, 8, 8)
    np.testing.assert_array_equal(table.x[:, 0] * 16, load_digits().images)
    np.testing.assert_array_equal(table.y, load_digits().target)
    assert table.class_names == tuple("0123456789")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array"])
def test_load_names_the_file_and_the_remedy_when_it_is_damaged(tmp_path, content):
    Digits().materialise(tmp_path / "data")
    images = tmp_path / "data" / "digits" / "images.npy"
    images.write_bytes(content)

    with pytest.raises(DataError, match=r"images\.npy cannot be read.*stillhouse data pull"):
        Digits().load(tmp_path)


def test_load_names_the_file_when_it_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"images\.npy cannot be read"):
        Digits().load(tmp_path)
