"""Float weights stored in two bytes instead of four."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.contracts.errors import TechniqueError
from tasks.techniques.quantization.decoders import LEAST_ELEMENTS, Decoder, decode_at_load, user_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

HalfType = Literal["float16", "bfloat16"]

LARGEST: dict[HalfType, float] = {"float16": 65504.0, "bfloat16": (2 - 2**-7) * 2.0**127}
"""Largest finite values: (2 - 2^-p) 2^e with p bits of fraction and the largest exponent e."""


def require_range(graph: "GraphProto", dtype: HalfType) -> None:
    """Stop weights that are too large for `dtype`.

    Raises:
        TechniqueError: naming the tensor and its largest value.
    """
    largest = LARGEST[dtype]
    for name, values in _float_weights(graph, least_elements=1).items():
        if (found := float(np.abs(values).max())) > largest:
            raise TechniqueError(
                f"the weight {name!r} of {user_of(graph, name)} has the value {found:g}, and {dtype} ends at "
                f"{largest:g}; use quantize_bfloat16, or scale the weight down"
            )


def store_half(model: "ModelProto", dtype: HalfType) -> int:
    """Store the float32 weights of `model` as `dtype`, in place, with a Cast back to float32.

    Returns:
        How many weights (elements) are stored so.

    Raises:
        TechniqueError: a weight is too large for `dtype`, or there is none to store.
    """
    from onnx import TensorProto, helper, numpy_helper

    require_range(model.graph, dtype)
    decoders = {}
    num_weights = 0
    for name, values in _float_weights(model.graph, LEAST_ELEMENTS).items():
        stored = numpy_helper.from_array(values.astype(_numpy_type(dtype)), f"{name}_{dtype}")
        decoders[name] = Decoder((stored,), (helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT),))
        num_weights += values.size
    if not decoders:
        raise TechniqueError(
            f"the model has no float32 weight of {LEAST_ELEMENTS} elements or more to store as {dtype}"
        )
    decode_at_load(model.graph, decoders)
    return num_weights


def _float_weights(graph: "GraphProto", least_elements: int) -> dict[str, np.ndarray]:
    from onnx import TensorProto, numpy_helper

    tensors = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    return {name: values for name, values in weights.items() if values.size >= least_elements}


def _numpy_type(dtype: HalfType) -> np.dtype[np.generic]:
    import ml_dtypes

    return np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
