"""The values that a request and its answer are made of, and the protocol's names of types."""

from typing import Any, NamedTuple

import numpy as np

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
    is_named: bool = False
    """Whether the id is the caller's own; otherwise it was made up for this request alone."""


class Encoded(NamedTuple):
    """The body of an answer."""

    body: bytes
    json_bytes: int | None
    """Length of the JSON that binary values follow; None where there are none."""


class Feedback(NamedTuple):
    """Labels for the rows of one earlier request; None where a row's label is not known."""

    request_id: str
    labels: list[float | None]
