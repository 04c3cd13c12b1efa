"""The share of a model's weights that is exactly zero, in whatever form the file stores them."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

Constants = dict[str, np.ndarray]

_INTEGER_WEIGHTS = {
    "MatMulInteger": (1, 3),
    "ConvInteger": (1, 3),
    "DynamicQuantizeMatMul": (1, 3),
    "MatMulIntegerToFloat": (1, 5),
    "QLinearConv": (3, 5),
    "QLinearMatMul": (3, 5),
    "QGemm": (3, 5),
}
"""Places of the weight and of its zero point, for operators that multiply stored integers."""

_FLOATS = ("float16", "float32", "float64", "bfloat16")

_BLOCK_ZERO = 8
"""What stands for 0 in 4-bit blocks that come without zero points."""


def zero_share(model: ModelProto) -> float:
    """Return zeros over all weights; 0 for a model without weights.

    Weights are float constants of two and more axes as they are after decoding (dequantised, looked up in a
    codebook, unpacked), and the integers that products take as they are stored, against their zero points.
    Biases, scales, shapes and other vectors are left out.
    """
    num_zeros = num_weights = 0
    for is_zero in _weights(model):
        num_zeros += int(is_zero.sum())
        num_weights += is_zero.size
    return num_zeros / num_weights if num_weights else 0.0


def _weights(model: ModelProto) -> Iterator[np.ndarray]:
    """Yield, for each weight that the graph computes with, which of its elements are zero."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    computing = [node for node in model.graph.node if not _folded(node, constants, model)]
    seen: set[str] = set()
    for node in computing:
        if node.op_type == "MatMulNBits":
            yield _zero_blocks(node, constants)
            continue
        weight, zero_point = _INTEGER_WEIGHTS.get(node.op_type, (None, None))
        for place, name in enumerate(node.input):
            value = constants.get(name)
            if value is None or value.ndim < 2 or name in seen:
                continue
            if place == weight:
                seen.add(name)
                yield value == _zero_point(node, zero_point, constants, value.ndim)
            elif value.dtype.name in _FLOATS:
                seen.add(name)
                yield value == 0


def _folded(node: NodeProto, constants: Constants, model: ModelProto) -> bool:
    """Compute a node whose inputs are all constant, such as one that decodes weights; tell whether it was one."""
    used = [name for name in node.input if name]
    is_source = not used and node.op_type != "Constant"  # such as random numbers
    if node.domain or is_source or any(name not in constants for name in used) or _is_nested(node):
        return False
    values = ReferenceEvaluator(_alone(node, constants, model)).run(None, {name: constants[name] for name in used})
    constants.update(zip(node.output, values, strict=True))  # type: ignore[arg-type]
    return True


def _alone(node: NodeProto, constants: Constants, model: ModelProto) -> ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(name, _element_type(constants[name]), constants[name].shape)
        for name in dict.fromkeys(node.input)
        if name
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = onnx.helper.make_graph([node], "decode", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _element_type(value: np.ndarray) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def _is_nested(node: NodeProto) -> bool:
    return any(
        attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute
    )


def _zero_point(node: NodeProto, place: int | None, constants: Mapping[str, np.ndarray], ndim: int) -> np.ndarray:
    """Return the zero point so that it broadcasts: per output channel, the first axis of kernels, else the last."""
    if place is None or place >= len(node.input) or node.input[place] not in constants:
        return np.zeros((), np.int8)
    zero_point = constants[node.input[place]]
    if zero_point.ndim == 1 and "Conv" in node.op_type:
        return zero_point.reshape(-1, *[1] * (ndim - 1))
    return zero_point


def _zero_blocks(node: NodeProto, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which 4-bit weights of a `MatMulNBits` are zero; blocks that bring zero points count as dense."""
    packed = constants[node.input[1]]
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1)
    if len(node.input) > 3 and node.input[3]:
        return np.zeros(nibbles.shape, dtype=bool)
    is_zero: np.ndarray = nibbles == _BLOCK_ZERO
    return is_zero
