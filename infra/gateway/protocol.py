"""Open Inference Protocol v2, in JSON and with binary tensors: requests checked by hand, which is most of the cost.

One 784-float row takes orjson 13 µs and the checks below about 14 µs; a pydantic model takes ten times that. With
the binary extension a body is JSON, as long as the header Inference-Header-Content-Length says, and then the values
of each tensor that has `binary_data_size` instead of `data`, little-endian and in row-major order. A length of 0
says that the body is nothing but the values of the only input.
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
_MAX_LENGTH_DIGITS = 12

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


class WantedOutputs(NamedTuple):
    """Which outputs a request asks for, and in which form."""

    names: frozenset[str] | None = None
    """None asks for all."""
    binary: frozenset[str] = frozenset()
    """Those whose values are sent as bytes."""


class InferRequest(NamedTuple):
    """A request whose every part has been checked."""

    request_id: str
    inputs: np.ndarray
    """[N, *input_shape], float32 or int64, finite."""
    outputs: WantedOutputs
    as_predictions: bool = False
    """Whether the answer is MLflow's `{"predictions": ...}`."""


class Encoded(NamedTuple):
    """The body of an answer."""

    body: bytes
    json_bytes: int | None
    """Length of the JSON that binary values follow; None where there are none."""


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
        self._wire = self._dtype.newbyteorder("<")
        self._vocab_size = signature.vocab_size

    def parse(self, body: bytes, json_bytes: int | None = None) -> InferRequest:
        """Parse and check one body.

        Args:
            body: JSON, or JSON and then the values of the input.
            json_bytes: what Inference-Header-Content-Length says; None without that header.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        if json_bytes == 0:
            return InferRequest(_new_id(), self._raw(body), WantedOutputs(binary=self._output_names))
        text, values = (body, None) if json_bytes is None else _divided(body, json_bytes)
        document = _load_object(text)
        request_id = _request_id(document)
        parameters = _parameters(document)
        inputs = document.get("inputs")
        if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
            raise RequestError(400, f"'inputs' must be a list of one tensor object, named '{self._input_name}'")
        # The letters of `true` and `false`; no key of a usual request has them, so the slow check is rare.
        may_hold_booleans = b"r" in text or b"l" in text
        tensor = self._tensor(inputs[0], values, may_hold_booleans=may_hold_booleans)
        wanted = self._wanted_outputs(document.get("outputs"), binary=_flag(parameters, "binary_data_output"))
        return InferRequest(request_id, tensor, wanted)

    def parse_invocation(self, body: bytes) -> InferRequest:
        """Parse what MLflow's scoring servers take: `{"inputs": rows}` or `{"instances": rows}`.

        Rows are nested lists of the model's shape, or an object that names the input and holds them.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        document = _load_object(body)
        given = [document[name] for name in ("inputs", "instances") if name in document]
        if len(given) != 1:
            raise RequestError(400, 'send {"inputs": rows} or {"instances": rows}; data frames are not supported')
        rows = given[0]
        if type(rows) is dict:
            if list(rows) != [self._input_name]:
                raise RequestError(400, f"unknown input; this model takes one tensor named '{self._input_name}'")
            rows = rows[self._input_name]
        if type(rows) is not list or not 1 <= len(rows) <= self._max_rows or type(rows[0]) is not list:
            raise RequestError(400, f"rows must be a list of 1 to {self._max_rows} nested lists")
        num_rows = len(rows)
        may_hold_booleans = b"r" in body or b"l" in body
        values = self._from_list(rows, num_rows, may_hold_booleans=may_hold_booleans)
        return InferRequest(_new_id(), self._checked(values, num_rows), WantedOutputs(), as_predictions=True)

    def _tensor(self, tensor: dict[str, Any], values: memoryview | None, *, may_hold_booleans: bool) -> np.ndarray:
        if tensor.get("name") != self._input_name:
            raise RequestError(400, f"unknown input; this model takes one tensor named '{self._input_name}'")
        if tensor.get("datatype") != self._datatype:
            raise RequestError(400, f"input '{self._input_name}' must have datatype {self._datatype}")
        num_rows = self._num_rows(tensor.get("shape"))
        size = _parameters(tensor).get("binary_data_size") if values is not None else None
        if size is not None:
            assert values is not None
            if type(size) is not int or size != len(values) or "data" in tensor:
                raise RequestError(
                    400, "'binary_data_size' must be the number of bytes after the JSON, and 'data' be left out"
                )
            converted = self._from_bytes(values, num_rows)
        else:
            if values:
                raise RequestError(400, "bytes follow the JSON that no input claims by 'binary_data_size'")
            converted = self._from_list(tensor.get("data"), num_rows, may_hold_booleans=may_hold_booleans)
        return self._checked(converted, num_rows)

    def _raw(self, body: bytes) -> np.ndarray:
        """Return the tensor of a body that is nothing but values."""
        row_bytes = self._row_size * self._wire.itemsize
        num_rows, rest = divmod(len(body), row_bytes)
        if rest or not 1 <= num_rows <= self._max_rows:
            raise RequestError(400, f"a body of bare values holds 1 to {self._max_rows} rows of {row_bytes} bytes")
        return self._checked(self._from_bytes(memoryview(body), num_rows), num_rows)

    def _from_bytes(self, values: memoryview, num_rows: int) -> np.ndarray:
        if len(values) != num_rows * self._row_size * self._wire.itemsize:
            raise RequestError(
                400, f"the bytes must hold {self._row_size} values of {self._datatype} for each row of 'shape'"
            )
        # a copy in the machine's own byte order, aligned, and not tied to the body's memory
        return np.frombuffer(values, dtype=self._wire).astype(self._dtype)

    def _from_list(self, data: Any, num_rows: int, *, may_hold_booleans: bool) -> np.ndarray:
        values = self._flat(data, num_rows)
        if may_hold_booleans and bool in set(map(type, values)):
            raise RequestError(400, f"the data must be {self._datatype} numbers; true and false are not")
        try:
            # Unlike numpy, array refuses text and null. It rounds as numpy does; too large a float becomes infinite.
            return np.frombuffer(array(self._code, values), dtype=self._dtype)
        except (TypeError, OverflowError):
            raise RequestError(400, f"the data must be numbers that fit {self._datatype}") from None

    def _checked(self, values: np.ndarray, num_rows: int) -> np.ndarray:
        if not np.isfinite(values).all():
            raise RequestError(400, f"the data must be finite {self._datatype} numbers")
        # an id without an embedding would make the model fail, and count against it
        if self._vocab_size is not None and not ((values >= 0) & (values < self._vocab_size)).all():
            raise RequestError(400, f"the data must be token ids from 0 to {self._vocab_size - 1}")
        return values.reshape(num_rows, *self._row_shape)

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

    def _wanted_outputs(self, outputs: Any, *, binary: bool) -> WantedOutputs:
        """Return what is asked for; `binary` is the form of outputs that do not say theirs."""
        if outputs is None:
            return WantedOutputs(binary=self._output_names if binary else frozenset())
        if type(outputs) is not list or not all(type(wanted) is dict for wanted in outputs):
            raise RequestError(400, "'outputs' must be a list of objects with a 'name'")
        names = [wanted.get("name") for wanted in outputs]
        if not all(type(name) is str and name in self._output_names for name in names):
            raise RequestError(400, f"unknown output; this model gives {sorted(self._output_names)}")
        if len(set(names)) != len(names):
            raise RequestError(400, "an output may be asked for once")
        parameters = [_parameters(wanted) for wanted in outputs]
        if any("classification" in given for given in parameters):
            raise RequestError(400, "the classification extension is not supported; ask for the output itself")
        as_bytes = frozenset(
            name for name, given in zip(names, parameters, strict=True) if _flag(given, "binary_data", default=binary)
        )
        if not names:
            return WantedOutputs(binary=self._output_names if binary else frozenset())
        return WantedOutputs(frozenset(names), as_bytes)


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
) -> Encoded:
    """Encode the answer to one request, in the form of the protocol that it came by."""
    if request.as_predictions:
        predictions = np.ascontiguousarray(outputs[0])
        return Encoded(orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY), None)
    wanted = request.outputs
    tensors: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for spec, output in zip(specs, outputs, strict=True):
        if wanted.names is not None and spec.name not in wanted.names:
            continue
        tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": output.shape}
        if spec.name in wanted.binary:
            values = np.ascontiguousarray(output).astype(output.dtype.newbyteorder("<"), copy=False).tobytes()
            binary.append(values)
            tensor["parameters"] = {"binary_data_size": len(values)}
        else:
            tensor["data"] = output.ravel()
        tensors.append(tensor)
    document = {
        "model_name": model_name,
        "model_version": str(model_version),
        "id": request.request_id,
        "outputs": tensors,
    }
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Encoded(b"".join([text, *binary]), len(text)) if binary else Encoded(text, None)


def parse_json_length(value: bytes) -> int:
    """Return what the header Inference-Header-Content-Length says.

    Raises:
        RequestError: 400, it is no number.
    """
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise RequestError(400, "the Inference-Header-Content-Length header must be a number of bytes")
    return int(value)


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
    return _new_id() if given is None else check_identifier(given, "'id'")


def _new_id() -> str:
    return os.urandom(16).hex()


def _divided(body: bytes, json_bytes: int) -> tuple[bytes, memoryview]:
    if json_bytes > len(body):
        raise RequestError(
            400, f"the Inference-Header-Content-Length header says {json_bytes} bytes, but the body has {len(body)}"
        )
    return body[:json_bytes], memoryview(body)[json_bytes:]


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(400, "'parameters' must be an object")
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestError(400, f"parameter '{name}' must be true or false")
    return value


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
