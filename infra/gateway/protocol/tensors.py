"""Checking the one tensor that a request carries, by hand, which is most of a request's cost.

One 784-float row takes orjson 13 µs and the checks below about 14 µs; a pydantic model takes ten times that.
"""

import math
import struct
from itertools import chain
from typing import Any

import numpy as np

from infra.gateway.errors import RequestError
from infra.gateway.finite import all_finite
from infra.gateway.protocol.documents import parameters_of
from infra.gateway.protocol.messages import DATATYPES
from tasks.contracts.route import ModelSignature

_TYPE_CODES = {"float32": "f", "int64": "q"}


class TensorReader:
    """Reads the input of one model, [N, *input_shape] and finite, from JSON or from bytes."""

    def __init__(self, signature: ModelSignature, input_name: str, max_batch_rows: int) -> None:
        self.input_name = input_name
        self.max_rows = max_batch_rows
        self._row_shape = list(signature.input_shape)
        self._row_size = math.prod(signature.input_shape)
        self._dtype = np.dtype(signature.input_dtype)
        self._datatype = DATATYPES[signature.input_dtype]
        self._code = _TYPE_CODES[signature.input_dtype]
        self._wire = self._dtype.newbyteorder("<")
        self._vocab_size = signature.vocab_size

    def tensor(self, tensor: dict[str, Any], values: memoryview | None, *, may_hold_booleans: bool) -> np.ndarray:
        """Read a tensor object of the protocol.

        Args:
            tensor: the object.
            values: the bytes after the JSON; None where the request has no such part.
            may_hold_booleans: whether `true` or `false` may be among the JSON's values.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        if tensor.get("name") != self.input_name:
            raise RequestError(400, f"unknown input; this model takes one tensor named '{self.input_name}'")
        if tensor.get("datatype") != self._datatype:
            raise RequestError(400, f"input '{self.input_name}' must have datatype {self._datatype}")
        num_rows = self._num_rows(tensor.get("shape"))
        size = parameters_of(tensor).get("binary_data_size") if values is not None else None
        if size is not None:
            assert values is not None
            if type(size) is not int or size != len(values) or "data" in tensor:
                raise RequestError(
                    400, "'binary_data_size' must be the number of bytes after the JSON, and 'data' be left out"
                )
            return self._checked(self._from_bytes(values, num_rows), num_rows)
        if values:
            raise RequestError(400, "bytes follow the JSON that no input claims by 'binary_data_size'")
        return self.rows(tensor.get("data"), num_rows, may_hold_booleans=may_hold_booleans)

    def bare(self, body: bytes) -> np.ndarray:
        """Read a body that is nothing but values.

        Raises:
            RequestError: 400, it holds no whole rows, too many, or values that are not allowed.
        """
        row_bytes = self._row_size * self._wire.itemsize
        num_rows, rest = divmod(len(body), row_bytes)
        if rest or not 1 <= num_rows <= self.max_rows:
            raise RequestError(400, f"a body of bare values holds 1 to {self.max_rows} rows of {row_bytes} bytes")
        return self._checked(self._from_bytes(memoryview(body), num_rows), num_rows)

    def rows(self, data: Any, num_rows: int, *, may_hold_booleans: bool) -> np.ndarray:
        """Read JSON values, flat or nested as the model's shape says.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        values = self._flat(data, num_rows)
        if may_hold_booleans and bool in set(map(type, values)):
            raise RequestError(400, f"the data must be {self._datatype} numbers; true and false are not")
        try:
            # Unlike numpy, struct refuses text and null. It rounds as numpy does; too large a float becomes infinite.
            converted = np.frombuffer(struct.pack(f"{len(values)}{self._code}", *values), dtype=self._dtype)
        except (struct.error, OverflowError):
            raise RequestError(400, f"the data must be numbers that fit {self._datatype}") from None
        return self._checked(converted, num_rows)

    def _from_bytes(self, values: memoryview, num_rows: int) -> np.ndarray:
        if len(values) != num_rows * self._row_size * self._wire.itemsize:
            raise RequestError(
                400, f"the bytes must hold {self._row_size} values of {self._datatype} for each row of 'shape'"
            )
        # a copy in the machine's own byte order, aligned, and not tied to the body's memory
        return np.frombuffer(values, dtype=self._wire).astype(self._dtype)

    def _checked(self, values: np.ndarray, num_rows: int) -> np.ndarray:
        if not all_finite(values):
            raise RequestError(400, f"the data must be finite {self._datatype} numbers")
        # an id without an embedding would make the model fail, and count against it
        if self._vocab_size is not None and not ((values >= 0) & (values < self._vocab_size)).all():
            raise RequestError(400, f"the data must be token ids from 0 to {self._vocab_size - 1}")
        return values.reshape(num_rows, *self._row_shape)

    def _num_rows(self, shape: Any) -> int:
        if type(shape) is not list or shape[1:] != self._row_shape or set(map(type, shape)) != {int}:
            expected = [-1, *self._row_shape]
            raise RequestError(400, f"input '{self.input_name}' must have shape {expected}, -1 being the rows")
        num_rows: int = shape[0]
        if not 1 <= num_rows <= self.max_rows:
            raise RequestError(400, f"a request holds 1 to {self.max_rows} rows")
        return num_rows

    def _flat(self, data: Any, num_rows: int) -> list[Any]:
        """Return the values in row-major order from a flat list or from lists nested as the shape says."""
        if type(data) is not list or not data:
            raise RequestError(400, "'data' must be a list of numbers that is not empty")
        if type(data[0]) is list:
            for length in self._row_shape:
                if any(type(part) is not list or len(part) != length for part in data):
                    raise RequestError(400, "nested 'data' must be lists of exactly the tensor's shape")
                data = list(chain.from_iterable(data))
        values: list[Any] = data
        if len(values) != num_rows * self._row_size:
            raise RequestError(400, f"'data' must hold {self._row_size} values for each row of 'shape'")
        return values
