"""Small ONNX models for measuring what is around a model."""

import itertools

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_OPSET = 21
_IR_VERSION = 10
_CHANNELS = ((1, 16, 1), (16, 32, 2), (32, 40, 1), (40, 64, 2), (64, 48, 1))
"""Input channels, output channels and stride of each 3x3 convolution."""


def convolutional(seed: int) -> bytes:
    """Return a net of 11.5 MFLOP a row with random weights: `input` float [batch, 784] to `output` [batch, 10]."""
    rng = np.random.default_rng(seed)
    constants = {"image_shape": np.array([-1, 1, 28, 28], np.int64)}
    nodes = [helper.make_node("Reshape", ["input", "image_shape"], ["image"])]
    current = "image"
    for number, (num_in, num_out, stride) in enumerate(_CHANNELS):
        scale = np.sqrt(2.0 / (9 * num_in))
        constants[f"kernel{number}"] = (rng.standard_normal((num_out, num_in, 3, 3)) * scale).astype(np.float32)
        nodes += [
            helper.make_node(
                "Conv", [current, f"kernel{number}"], [f"sum{number}"], pads=[1, 1, 1, 1], strides=[stride, stride]
            ),
            helper.make_node("Relu", [f"sum{number}"], [f"map{number}"]),
        ]
        current = f"map{number}"
    constants["classifier"] = rng.standard_normal((_CHANNELS[-1][1], 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "classifier"], ["output"]),
    ]
    return _model(nodes, constants, num_inputs=784, num_outputs=10)


def dense(seed: int, width: int = 1024) -> bytes:
    """Return a net of dense layers, by default of 7 MB: `input` float [batch, 784] to `output` [batch, 10].

    A row alone reads every weight for one multiplication, so that joint runs gain much.
    """
    rng = np.random.default_rng(seed)
    sizes = (784, width, width, 10)
    constants: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    current = "input"
    for number, (num_in, num_out) in enumerate(itertools.pairwise(sizes)):
        last = number == len(sizes) - 2
        constants[f"weight{number}"] = (rng.standard_normal((num_in, num_out)) * np.sqrt(2 / num_in)).astype(np.float32)
        name = "output" if last else f"sum{number}"
        nodes.append(helper.make_node("MatMul", [current, f"weight{number}"], [name]))
        if not last:
            nodes.append(helper.make_node("Relu", [name], [f"map{number}"]))
        current = f"map{number}"
    return _model(nodes, constants, num_inputs=784, num_outputs=10)


def linear(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """Return the ONNX model `input` @ weight + bias, for weight [inputs, outputs] and bias [outputs]."""
    constants = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    nodes = [helper.make_node("Gemm", ["input", "weight", "bias"], ["output"], name="classifier")]
    return _model(nodes, constants, num_inputs=weight.shape[0], num_outputs=weight.shape[1])


def _model(nodes: list[NodeProto], constants: dict[str, np.ndarray], *, num_inputs: int, num_outputs: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", num_inputs])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", num_outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
