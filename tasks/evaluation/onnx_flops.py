"""Counts the floating-point operations of one row from the shapes of an ONNX graph."""

from collections.abc import Callable, Mapping
from math import prod

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from tasks.contracts.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]


def count_flops(model: ModelProto, input_shape: tuple[int, ...]) -> int:
    """Count the operations of all convolutions and matrix products for one row.

    A multiply-accumulate counts as two; additions of biases, activations, normalisation and pooling
    are left out, as is the custom. A QDQ graph counts like the float graph that it came from.

    Args:
        model: The graph as stored, not as optimised by a runtime.
        input_shape: Shape of one row, without the batch axis.

    Raises:
        ModelError: the shape of such a node's input cannot be inferred.
    """
    shapes = _shapes_for_one_row(model, input_shape)
    total = 0
    for node in model.graph.node:
        if count := _COUNTS.get(node.op_type):
            try:
                total += 2 * count(node, shapes)
            except KeyError as error:
                raise ModelError(
                    f"the FLOPs of {node.op_type} {node.name or node.output[0]!r} cannot be counted: the shape of its "
                    f"tensor {error} depends on more than the input shape {input_shape}"
                ) from None
    return total


def _shapes_for_one_row(model: ModelProto, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Infer all shapes with the first input fixed to one row; tensors of unknown shape are left out."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.ClearField("value_info")
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    declared = tuple(dim.dim_value or None for dim in dims[1:])
    if len(dims) != 1 + len(input_shape) or any(d not in (None, s) for d, s in zip(declared, input_shape, strict=True)):
        raise ModelError(f"the model takes rows of shape {declared}, not {input_shape}")
    for dim, size in zip(dims, (1, *input_shape), strict=True):
        dim.dim_value = size
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the model does not take rows of shape {input_shape}: {error}") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if (shape := _static_shape(value)) is not None:
            shapes[value.name] = shape
    return shapes


def _static_shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _convolution(weight: int) -> Callable[[NodeProto, Shapes], int]:
    """Multiply-accumulates: every output element sums over (channels / groups) * kernel, the weight's inner size."""
    return lambda node, shapes: prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])


def _transposed_convolution(node: NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates: every input element is spread over (output channels / groups) * kernel."""
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _matrix_product(left: int) -> Callable[[NodeProto, Shapes], int]:
    """Multiply-accumulates: every output element sums over the left matrix's last axis."""
    return lambda node, shapes: prod(shapes[node.output[0]]) * shapes[node.input[left]][-1]


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


_COUNTS: dict[str, Callable[[NodeProto, Shapes], int]] = {
    "Conv": _convolution(weight=1),
    "ConvInteger": _convolution(weight=1),
    "QLinearConv": _convolution(weight=3),
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matrix_product(left=0),
    "MatMulInteger": _matrix_product(left=0),
    "QLinearMatMul": _matrix_product(left=0),
}
