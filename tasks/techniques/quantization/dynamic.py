"""Writes int8 products into a graph whose activations are quantised anew for every request.

A weight becomes q = clip(round(w / s), -127, 127) with s = max|w| / 127 (per output channel or per layer), an
activation u8 with scale and zero point from its own extremes (ONNX DynamicQuantizeLinear). The product of integers
is scaled back: y = (x_q - z_x) q * (s_x s) + bias. onnxruntime fuses these nodes into one DynamicQuantizeMatMul.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto


def quantise_weight(weight: np.ndarray, channel_axis: int | None, max_level: int) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric int8 levels and float32 scales that broadcast against them.

    Args:
        weight: any shape.
        channel_axis: axis that has a scale for each of its positions; None for one scale.
        max_level: largest level, 127 or, with a reduced range, 63.
    """
    axes = tuple(axis for axis in range(weight.ndim) if axis != channel_axis)
    scale = (np.abs(weight).max(axis=axes, keepdims=channel_axis is not None) / max_level).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(np.round(weight / scale), -max_level, max_level).astype(np.int8), scale


class DynamicInt8:
    """Rewrites the layers of one graph."""

    def __init__(self, model: "ModelProto", *, per_channel: bool, reduce_range: bool) -> None:
        from onnx import numpy_helper

        self._graph = model.graph
        self._weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._per_channel = per_channel
        self._max_level = 63 if reduce_range else 127
        self._quantised_inputs: dict[str, tuple[str, str, str]] = {}

    def rewrite(self, layers: "list[NodeProto]") -> None:
        """Replace these MatMul, Gemm and Conv nodes, in place; their weights are constants (see `can_rewrite`)."""
        replaced = {node.output[0] for node in layers}
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            nodes += self._replacement(node) if node.output[0] in replaced else [node]
        self._graph.ClearField("node")
        self._graph.node.extend(nodes)

    def can_rewrite(self, node: "NodeProto") -> bool:
        """Tell whether `node` is a layer with a constant weight, in a form that has an integer kernel."""
        weight = self._weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or node.op_type not in ("MatMul", "Gemm", "Conv"):
            return False
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Gemm":
            plain = all(name not in attributes or attributes[name].f == 1.0 for name in ("alpha", "beta"))
            return plain and not _flag(attributes.get("transA"))
        return weight.ndim == (4 if node.op_type == "Conv" else 2)

    def _replacement(self, node: "NodeProto") -> "list[NodeProto]":
        from onnx import TensorProto, helper

        output = node.output[0]
        nodes, (x_q, x_scale, x_zero) = self._quantised_input(node.input[0])
        weight_q, scale = self._stored_weight(node)
        operator, attributes = ("ConvInteger", node.attribute) if node.op_type == "Conv" else ("MatMulInteger", ())
        sums = helper.make_node(operator, [x_q, weight_q, x_zero], [f"{output}_int32"], name=node.name)
        sums.attribute.extend(attributes)
        has_bias = len(node.input) == 3 and node.input[2] != ""
        product = f"{output}_product" if has_bias else output
        nodes += [
            sums,
            helper.make_node("Cast", [f"{output}_int32"], [f"{output}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [x_scale, scale], [f"{output}_scale"]),
            helper.make_node("Mul", [f"{output}_float", f"{output}_scale"], [product]),
        ]
        if has_bias:
            nodes.append(helper.make_node("Add", [product, self._stored_bias(node)], [output]))
        return nodes

    def _quantised_input(self, name: str) -> "tuple[list[NodeProto], tuple[str, str, str]]":
        """Return the nodes to add and the names of levels, scale and zero point; an input is quantised once."""
        from onnx import helper

        if name in self._quantised_inputs:
            return [], self._quantised_inputs[name]
        names = (f"{name}_uint8", f"{name}_dynamic_scale", f"{name}_zero_point")
        self._quantised_inputs[name] = names
        return [helper.make_node("DynamicQuantizeLinear", [name], list(names))], names

    def _stored_weight(self, node: "NodeProto") -> tuple[str, str]:
        weight = self._weights[node.input[1]]
        if node.op_type == "Gemm" and any(each.name == "transB" and each.i for each in node.attribute):
            weight = np.ascontiguousarray(weight.T)
        channel_axis = (0 if node.op_type == "Conv" else weight.ndim - 1) if self._per_channel else None
        levels, scale = quantise_weight(weight, channel_axis, self._max_level)
        scale = scale.reshape(-1, 1, 1) if node.op_type == "Conv" and self._per_channel else scale.reshape(-1)
        if not self._per_channel:
            scale = scale.reshape(())
        return self._add(f"{node.output[0]}_weight", levels), self._add(f"{node.output[0]}_weight_scale", scale)

    def _stored_bias(self, node: "NodeProto") -> str:
        if node.op_type != "Conv":
            return str(node.input[2])
        return self._add(f"{node.output[0]}_bias", self._weights[node.input[2]].reshape(-1, 1, 1))

    def _add(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        tensor: TensorProto = numpy_helper.from_array(values, name)
        self._graph.initializer.append(tensor)
        return name


def _flag(attribute: "AttributeProto | None") -> bool:
    return attribute is not None and bool(attribute.i)
