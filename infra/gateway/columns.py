"""Arrow columns of values and numpy arrays, without `pyarrow.array`.

That imports pandas at its first call wherever pandas is installed: most of what a gateway would then need to start, and
tens of megabytes, for nothing. So columns are put together from their buffers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_NUMPY_TYPES = {
    pa.int64(): np.int64,
    pa.float64(): np.float64,
    pa.timestamp("us", tz="UTC"): np.int64,
}
_MOST_BYTES = 2**31 - 1
"""What one column of text or bytes can hold, whose offsets are 32 bits wide."""


def column(values: Sequence[Any] | np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return one column.

    Args:
        values: numbers; true and false; microseconds since the epoch; or texts, None where there is none.
        kind: int64, float64, bool, timestamp or string.
    """
    if kind == pa.string():
        return _texts(list(values))
    if kind == pa.bool_():
        bits = np.packbits(np.asarray(values, dtype=bool), bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(bits)])
    return _numbers(np.asarray(values, dtype=_NUMPY_TYPES[kind]), kind)


def listed(rows: np.ndarray) -> pa.Array:
    """Return a column of lists, each a row of [N, K] float32."""
    num_rows, size = rows.shape
    offsets = np.arange(0, num_rows * size + 1, size)
    return pa.ListArray.from_arrays(
        _numbers(offsets.astype(np.int32), pa.int32()), _numbers(rows.reshape(-1), pa.float32())
    )


def blobs(rows: np.ndarray) -> pa.Array:
    """Return a column of bytes, each those of a row of [N, ...] in row-major order.

    Raises:
        ValueError: they are too many for one column.
    """
    sizes = np.full(len(rows), rows[0].nbytes)
    return pa.Array.from_buffers(
        pa.binary(), len(rows), [None, _offsets(sizes), pa.py_buffer(np.ascontiguousarray(rows).reshape(-1))]
    )


def _texts(values: Sequence[str | None]) -> pa.Array:
    given = [value for value in values if value is not None]
    is_there = None
    if len(given) < len(values):
        is_there = pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little"))
        given = ["" if value is None else value for value in values]
    text = "".join(given)
    data = text.encode()
    is_ascii = len(data) == len(text)
    sizes = np.fromiter(map(len, given) if is_ascii else (len(value.encode()) for value in given), np.int64, len(given))
    return pa.Array.from_buffers(pa.string(), len(values), [is_there, _offsets(sizes), pa.py_buffer(data)])


def _numbers(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _offsets(sizes: np.ndarray) -> pa.Buffer:
    """Return where each of the values [N] begins, and where the last one ends."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    if ends[-1] > _MOST_BYTES:
        raise ValueError(f"a column holds {_MOST_BYTES} bytes, not {ends[-1]}; write smaller segments by `flush_rows`")
    return pa.py_buffer(ends.astype(np.int32))
