"""Writes int8 into a graph as QuantizeLinear and DequantizeLinear pairs, so that onnxruntime runs it in integers.

An activation x becomes q = clip(round(x / s) + z, 0, 255) with s = (max - min) / 255 and
z = round(-min / s), over a range [min, max] that is widened to contain 0. A weight becomes
q = clip(round(w / s), -127, 127) with s = max|w| / 127, for each output channel. Unsigned activations
with signed weights per channel are the combination that onnxruntime runs in int8 throughout on x86.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from tasks.techniques.quantization.float_layers import LAYERS
from tasks.techniques.quantization.image_path import off_image_path

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from tasks.evaluation.activation_ranges import Ranges

_FOLLOWERS = (
    "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "AveragePool", "GlobalAveragePool", "MaxPool",
    "Concat", "Split", "Slice", "Pad", "Resize", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze",
)  # fmt: skip
"""Operators between layers that onnxruntime runs on int8, so that the values need not be converted back."""


def insert_qdq(
    model: "ModelProto",
    ranges: "Ranges",
    excluded: Collection[str],
    *,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> "ModelProto":
    """Return `model`, which is changed on the way, with its layers in int8.

    Sums and products of transformers (residual stream, biases, scores) stay float: next to LayerNorm, Softmax and
    GELU, which have no fast int8 form, converting costs more than it saves, in time and in precision.

    Args:
        model: a prepared float graph (see `preparation.prepared`).
        ranges: smallest and largest value of every activation.
        excluded: names of the nodes that stay float.
        per_channel: one weight scale per output channel instead of one per layer.
        reduce_range: 7-bit weights.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    kept_float = {*excluded, *off_image_path(model.graph, excluded)}
    in_int8 = {
        output
        for node in model.graph.node
        if node.op_type in (*LAYERS, *_FOLLOWERS) and node.name not in kept_float
        for output in node.output
    }
    clamps = [node for node in model.graph.node if node.op_type in ("Relu", "Clip")]
    activated = {name for node in clamps for name in (node.input[0], node.output[0])}
    quantizer = QDQQuantizer(
        model,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(kept_float),
        op_types_to_quantize=[*LAYERS, *_FOLLOWERS],
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: ModelProto = quantizer.model.model
    _give_floats_from_products(quantised.graph, in_int8, activated)
    _keep_float_convolution_biases(quantised.graph)
    _shield_float_layers(quantised.graph, excluded)
    return quantised


def _give_floats_from_products(graph: "GraphProto", in_int8: Collection[str], activated: Collection[str]) -> None:
    """Let float operators and the outside read a matrix product's float output instead of a quantised one.

    Its int8 kernel sums in int32 and gives the float directly, at full precision; a convolution's cannot.

    Args:
        graph: changed in place.
        in_int8: original outputs of the nodes that were to run in int8.
        activated: original outputs that went into a Relu or Clip. The quantizer leaves that out, since rounding into
            the range does its work, so these must stay rounded.
    """
    outside = {value.name for value in graph.output}
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for dequantize in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        quantize = makers.get(dequantize.input[0])
        layer = makers.get(quantize.input[0]) if quantize is not None else None
        if quantize is None or layer is None or layer.op_type not in ("Gemm", "MatMul"):
            continue
        raw, restored = quantize.input[0], dequantize.output[0]
        if _original(raw) in activated:
            continue
        for user in users.get(restored, []):
            if not any(_original(output) in in_int8 for output in user.output):
                _rewire(user, restored, raw)
        if restored in outside:
            for user in users.get(raw, []):
                _rewire(user, raw, restored)
            layer.output[0] = restored
        used = {name for node in graph.node for name in node.input}
        if restored in outside or restored not in used:
            graph.node.remove(dequantize)
        if quantize.output[0] not in {name for node in graph.node for name in node.input}:
            graph.node.remove(quantize)


def _shield_float_layers(graph: "GraphProto", excluded: Collection[str]) -> None:
    """Keep onnxruntime from quantising the weights of float layers between int8 ones when it loads the model.

    It does so with any float weight between a DequantizeLinear and a QuantizeLinear. A Sum of one term in front of the
    layer copies its input and stops that.
    """
    from onnx import helper

    restored = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type in LAYERS and node.name in excluded and node.input[0] in restored:
            shielded = f"{node.output[0]}_shielded_input"
            nodes.append(helper.make_node("Sum", [node.input[0]], [shielded]))
            node.input[0] = shielded
        nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)


def _original(name: str) -> str:
    """Undo the renaming of an output that was quantised."""
    return name.removesuffix("_QuantizeLinear_Input")


def _rewire(user: "NodeProto", old: str, new: str) -> None:
    for position, name in enumerate(user.input):
        if name == old:
            user.input[position] = new


def _keep_float_convolution_biases(graph: "GraphProto") -> None:
    """Store the biases of convolutions in float: onnxruntime makes the same int32 of them when it loads the model.

    An int32 bias comes with a scale and a zero point for every channel: 12 bytes instead of 4.
    """
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    biases = {node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) == 3}
    for node in list(graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] in biases and node.input[0] in constants:
            bias = (constants[node.input[0]] * constants[node.input[1]].astype(np.float64)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(bias, node.output[0]))
            graph.node.remove(node)
