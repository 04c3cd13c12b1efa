import numpy as np
import pytest

from tasks.models.codebook import Codebook, contiguous_groups


def test_decoded_takes_group_entry_and_scale_by_channel():
    book = Codebook(
        values_GK=np.array([[1, 2], [3, 4]], np.float32),
        indices=np.array([[0, 1], [1, 0], [1, 1]], np.uint8),
        groups_O=np.array([0, 1, 0]),
        scales_O=np.array([1, 10, 100], np.float32),
    )
    np.testing.assert_array_equal(book.decoded(), [[1, 2], [40, 30], [200, 200]])
    np.testing.assert_array_equal(book.transposed().decoded(), book.decoded().T)


@pytest.mark.parametrize(
    ("channels", "groups", "expected"), [(4, 2, [0, 0, 1, 1]), (5, 2, [0, 0, 0, 1, 1]), (2, 9, [0, 1])]
)
def test_contiguous_groups_are_near_equal_runs(channels, groups, expected):
    assert contiguous_groups(channels, groups).tolist() == expected
