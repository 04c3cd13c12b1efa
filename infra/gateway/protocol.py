"""Open Inference Protocol v2, JSON form: requests checked by hand, because validation is most of the cost.

One 784-float row takes orjson 13 µs and the checks below about 14 µs; a pydantic model takes ten times that.
"""

import math
import os
from array import array
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from infra.gateway.errors import RequestError
from tasks.contracts.route import ModelSignature

MAX_ID_LENGTH = 128

DATATYPES: dict[str, str] = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
}
"""Protocol name of each numpy type that a model may give."""

_TYPE_CODES = {"float32": "f", "int64": "q"}


class TensorSpec(NamedTuple):
    """Name, type and shape of one tensor of a model; the first axis is the batch, -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """Return the form that model metadata uses."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class InferRequest(NamedTuple):
    """A request whose every part has been checked."""

    request_id: str
    inputs: np.ndarray
    """[N, *input_shape], float32 or int64, finite."""
    output_names: frozenset[str] | None
    """None asks for all."""


class Feedback(NamedTuple):
    """Labels for the rows of one earlier request; None where a row's label is not known."""

    request_id: str
    labels: list[float | None]


class InferenceParser:
    """Parses the bodies that are meant for one model."""

    def __init__(
        self, signature: ModelSignature, input_name: str, output_names: frozenset[str], max_batch_rows: int
    ) -> None:
        self._signature = signature
        self._input_name = input_name
        self._output_names = output_names
        self._max_rows = max_batch_rows
        self._row_shape = list(signature.input_shape)
        self._row_size = math.prod(signature.input_shape)
        self._dtype = np.dtype(signature.input_dtype)
        self._datatype = DATATYPES[signature.input_dtype]
        self._code = _TYPE_CODES[signature.input_dtype]
        self._vocab_size = signature.vocab_size

    def parse(self, body: bytes) -> InferRequest:
        """Parse and check one body.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        document = _load_object(body)
        request_id = _request_id(document)
        parameters = document.get("parameters")
        if parameters is not None and type(parameters) is not dict:
            raise RequestError(400, "'parameters' must be an object")
        inputs = document.get("inputs")
        if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
            raise RequestError(400, f"'inputs' must be a list of one tensor object, named '{self._input_name}'")
        # The letters of `true` and `false`; no key of a usual request has them, so the slow check is rare.
        may_hold_booleans = b"r" in body or b"l" in body
        tensor = self._tensor(inputs[0], may_hold_booleans=may_hold_booleans)
        return InferRequest(request_id, tensor, self._wanted_outputs(document.get("outputs")))

    def _tensor(self, tensor: dict[str, Any], *, may_hold_booleans: bool) -> np.ndarray:
        if tensor.get("name") != self._input_name:
            raise RequestError(400, f"unknown input; this model takes one tensor named '{self._input_name}'")
        if tensor.get("datatype") != self._datatype:
            raise RequestError(400, f"input '{self._input_name}' must have datatype {self._datatype}")
        num_rows = self._num_rows(tensor.get("shape"))
        values = self._flat(tensor.get("data"), num_rows)
        if may_hold_booleans and bool in set(map(type, values)):
            raise RequestError(400, f"the data must be {self._datatype} numbers; true and false are not")
        try:
            # Unlike numpy, array refuses text and null. It rounds as numpy does; too large a float becomes infinite.
            converted = np.frombuffer(array(self._code, values), dtype=self._dtype)
        except (TypeError, OverflowError):
            raise RequestError(400, f"the data must be numbers that fit {self._datatype}") from None
        if not np.isfinite(converted).all():
            raise RequestError(400, f"the data must be finite {self._datatype} numbers")
        # an id without an embedding would make the model fail, and count against it
        if self._vocab_size is not None and not ((converted >= 0) & (converted < self._vocab_size)).all():
            raise RequestError(400, f"the data must be token ids from 0 to {self._vocab_size - 1}")
        return converted.reshape(num_rows, *self._row_shape)

    def _num_rows(self, shape: Any) -> int:
        if type(shape) is not list or shape[1:] != self._row_shape or set(map(type, shape)) != {int}:
            expected = [-1, *self._row_shape]
            raise RequestError(400, f"input '{self._input_name}' must have shape {expected}, -1 being the rows")
        num_rows: int = shape[0]
        if not 1 <= num_rows <= self._max_rows:
            raise RequestError(400, f"a request holds 1 to {self._max_rows} rows")
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

    def _wanted_outputs(self, outputs: Any) -> frozenset[str] | None:
        if outputs is None:
            return None
        if type(outputs) is not list or not all(type(wanted) is dict for wanted in outputs):
            raise RequestError(400, "'outputs' must be a list of objects with a 'name'")
        names = [wanted.get("name") for wanted in outputs]
        if not all(type(name) is str and name in self._output_names for name in names):
            raise RequestError(400, f"unknown output; this model gives {sorted(self._output_names)}")
        if len(set(names)) != len(names):
            raise RequestError(400, "an output may be asked for once")
        return frozenset(names) or None


def parse_feedback(body: bytes, signature: ModelSignature, max_batch_rows: int) -> Feedback:
    """Parse `{"id": ..., "labels": [...]}`: a label per row, null where it is not known.

    Raises:
        RequestError: 400, with what is wrong and what is expected.
    """
    document = _load_object(body)
    if document.get("id") is None:
        raise RequestError(400, "feedback needs the 'id' of the request that it is about")
    request_id = _request_id(document)
    labels = document.get("labels")
    if type(labels) is not list or not 1 <= len(labels) <= max_batch_rows:
        raise RequestError(400, f"'labels' must be a list of 1 to {max_batch_rows} labels, one for each row")
    return Feedback(request_id, [_label(label, signature) for label in labels])


def encode_response(
    model_name: str, model_version: int, request: InferRequest, specs: tuple[TensorSpec, ...], outputs: list[np.ndarray]
) -> bytes:
    """Encode the answer to one request."""
    wanted = request.output_names
    document = {
        "model_name": model_name,
        "model_version": str(model_version),
        "id": request.request_id,
        "outputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": output.shape, "data": output.ravel()}
            for spec, output in zip(specs, outputs, strict=True)
            if wanted is None or spec.name in wanted
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def check_identifier(value: Any, what: str) -> str:
    """Return `value` if it is text that may stand in headers, logs and file columns.

    Raises:
        RequestError: 400.
    """
    if type(value) is str and 0 < len(value) <= MAX_ID_LENGTH and value.isascii() and value.isprintable():
        return value
    raise RequestError(400, f"{what} must be 1 to {MAX_ID_LENGTH} printable ASCII characters")


def _load_object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError(400, "the body is not valid JSON (NaN and Infinity are not JSON)") from None
    if type(document) is not dict:
        raise RequestError(400, "the body must be a JSON object")
    return document


def _request_id(document: dict[str, Any]) -> str:
    given = document.get("id")
    return os.urandom(16).hex() if given is None else check_identifier(given, "'id'")


def _label(label: Any, signature: ModelSignature) -> float | None:
    if label is None:
        return None
    if signature.task == "regression":
        if type(label) not in (int, float):
            raise RequestError(400, "a label must be a number or null")
        return float(label)
    if type(label) is not int or not 0 <= label < len(signature.class_names):
        raise RequestError(400, f"a label must be a class index from 0 to {len(signature.class_names) - 1}, or null")
    return float(label)
