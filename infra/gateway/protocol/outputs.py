"""What a request wants to be given, and the encoding of the answer."""

from typing import Any

import numpy as np
import orjson

from infra.gateway.errors import RequestError
from infra.gateway.protocol.documents import flag, parameters_of
from infra.gateway.protocol.messages import Encoded, InferRequest, TensorSpec, WantedOutputs

_ALL_AS_JSON = WantedOutputs()


def wanted_outputs(outputs: Any, known: frozenset[str], *, binary: bool) -> WantedOutputs:
    """Return what a request's `outputs` ask for.

    Args:
        outputs: as the request has them; None or an empty list asks for all.
        known: the names of the model's outputs.
        binary: the form of outputs that do not say theirs.

    Raises:
        RequestError: 400, with what is wrong and what is expected.
    """
    if outputs is None:
        return WantedOutputs(binary=known) if binary else _ALL_AS_JSON
    if type(outputs) is not list or not all(type(wanted) is dict for wanted in outputs):
        raise RequestError(400, "'outputs' must be a list of objects with a 'name'")
    names = [wanted.get("name") for wanted in outputs]
    if not all(type(name) is str and name in known for name in names):
        raise RequestError(400, f"unknown output; this model gives {sorted(known)}")
    if len(set(names)) != len(names):
        raise RequestError(400, "an output may be asked for once")
    parameters = [parameters_of(wanted) for wanted in outputs]
    if any("classification" in given for given in parameters):
        raise RequestError(400, "the classification extension is not supported; ask for the output itself")
    as_bytes = frozenset(
        name for name, given in zip(names, parameters, strict=True) if flag(given, "binary_data", default=binary)
    )
    if not names:
        return WantedOutputs(binary=known if binary else frozenset())
    return WantedOutputs(frozenset(names), as_bytes)


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
