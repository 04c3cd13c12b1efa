"""Why a quantised model is slower than the float model that it came from: what its graph gives away."""

from typing import TYPE_CHECKING

from tasks.evaluation.onnx_graph import load_graph, measure_int8_coverage, optimised_graph

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
_NARROW = 16
"""Channels below which int8 kernels work on partly empty registers, and converting costs more than multiplying."""


def slowness_reasons(before: bytes, after: bytes) -> list[str]:
    """Return what in the two graphs makes the second slow, most telling first; empty if nothing is known to.

    Args:
        before: the float model, as ONNX.
        after: the same model quantised.
    """
    coverage = measure_int8_coverage(after)
    reasons = []
    if coverage.float_nodes:
        total = coverage.num_int8 + len(coverage.float_nodes)
        names = ", ".join(coverage.float_nodes[:8]) + (", …" if len(coverage.float_nodes) > 8 else "")
        reasons.append(f"{len(coverage.float_nodes)} of {total} layers multiply in float ({names})")
    if num_conversions := _count_conversions(after):
        reasons.append(f"{num_conversions} conversions between number formats remain in the optimised graph")
    given = load_graph(before)
    if "ConvInteger" in {node.op_type for node in load_graph(after).graph.node}:
        reasons.append("convolutions on activations that are quantised at run time have no fast kernel")
    if narrow := _narrow_layers(given):
        reasons.append(f"too narrow for int8 to pay, under {_NARROW} channels: {', '.join(narrow)}")
    if unsuited := _unsuited_convolutions(given):
        reasons.append(f"convolutions without an int8 kernel, or with a slow one: {', '.join(unsuited)}")
    return reasons


def _count_conversions(model: bytes) -> int:
    """Count the conversions in the graph as onnxruntime executes it."""
    return sum(node.op_type in _CONVERSIONS for node in optimised_graph(model).node)


def _narrow_layers(model: "ModelProto") -> list[str]:
    """Return `name (width)` of the layers with few output channels, the last layer aside."""
    widths = [(node, _num_output_channels(model, node)) for node in model.graph.node if node.op_type in _WEIGHTED]
    return [f"{node.name} ({width})" for node, width in widths[:-1] if width is not None and width < _NARROW]


def _unsuited_convolutions(model: "ModelProto") -> list[str]:
    """Return transposed, grouped and one- or three-dimensional convolutions with their kind."""
    found = []
    for node in model.graph.node:
        shape = _weight_shape(model, node)
        if node.op_type == "ConvTranspose":
            found.append(f"{node.name} (transposed)")
        elif node.op_type == "Conv" and shape is not None and len(shape) != 4:
            found.append(f"{node.name} ({len(shape) - 2}-dimensional)")
        elif node.op_type == "Conv" and (groups := _attribute(node, "group", 1)) > 1:
            found.append(f"{node.name} ({groups} groups)")
    return found


def _num_output_channels(model: "ModelProto", node: "NodeProto") -> int | None:
    shape = _weight_shape(model, node)
    if shape is None or len(shape) < 2:
        return None
    first = node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB", 0) == 1)
    return shape[0] if first else shape[1]


def _weight_shape(model: "ModelProto", node: "NodeProto") -> tuple[int, ...] | None:
    return next(
        (tuple(t.dims) for t in model.graph.initializer if len(node.input) > 1 and t.name == node.input[1]), None
    )


def _attribute(node: "NodeProto", name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
