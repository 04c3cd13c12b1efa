import numpy as np
import pytest

from infra.gateway.finite import all_finite


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 784, 20_000])
@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_a_single_value_that_is_not(dtype, size, spoilt):
    values = np.ones(size, dtype)
    assert all_finite(values)
    for place in (0, size // 2, size - 1):
        values[place] = spoilt
        assert not all_finite(values)
        values[place] = 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_finite_is_true_of_the_largest_values(dtype):
    values = np.full((3, 7), np.finfo(dtype).max, dtype)
    values[1] *= -1
    assert all_finite(values)
    values[2, 2] = np.nan
    assert not all_finite(values)


@pytest.mark.parametrize(
    "values", [np.empty((0, 3), np.float32), np.ones((4, 4), np.float32).T[::2], np.arange(3), np.ones(2, bool)]
)
def test_all_finite_is_true_of_whatever_holds_nothing_else(values):
    assert all_finite(values)
