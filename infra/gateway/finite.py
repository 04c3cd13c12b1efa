"""Telling whether all values of an array are finite, which is asked twice of every request."""

import math

import numpy as np

_MOST_VALUES = 8192
"""Up to here a call costs more than its values do, and BLAS takes a dot product without starting threads."""
_BY_DOT = (np.dtype(np.float32), np.dtype(np.float64))


def all_finite(values: np.ndarray) -> bool:
    """Tell whether an array holds neither NaN nor infinity.

    The dot product of values with themselves is finite only if all of them are, and is one call where `isfinite` and
    `all` are two. Large finite values may overflow it: then each is looked at.
    """
    if values.dtype.kind in "biu":
        return True
    if values.size <= _MOST_VALUES and values.dtype in _BY_DOT:
        flat = values.reshape(-1)
        if math.isfinite(flat.dot(flat)):
            return True
    return bool(np.isfinite(values).all())
