"""Telling whether all values of an array are finite, which is asked twice of every request."""

import numpy as np


def all_finite(values: np.ndarray) -> bool:
    """Tell whether an array holds neither NaN nor infinity.

    For a row, counting what is finite takes less time than `isfinite(values).all()`.
    """
    return values.dtype.kind in "biu" or int(np.count_nonzero(np.isfinite(values))) == values.size
