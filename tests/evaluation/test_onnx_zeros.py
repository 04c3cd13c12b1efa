import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tasks.evaluation.onnx_graph import load_graph, read_graph_facts
from tasks.evaluation.onnx_zeros import zero_share

WEIGHT = np.array([[0.0, 1.0, 0.0, -2.0], [3.0, 0.0, 0.0, 0.0]], np.float32)  # 5 of 8 are zero


def model(text: str, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\nnet {text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return parsed


def test_zero_share_counts_weights_and_leaves_out_biases_shapes_and_scalars() -> None:
    network = model(
        """(float[batch, 4] input) => (float[batch, 2] output) {
            half = Mul (input, factor)
            flat = Reshape (half, shape)
            output = Gemm <transB = 1> (flat, w, b)
        }""",
        {"factor": np.float32(0), "shape": np.array([0, -1]), "w": WEIGHT, "b": np.zeros(2, np.float32)},
    )
    assert zero_share(network) == 5 / 8
    facts = read_graph_facts(network.SerializeToString(), (4,))
    assert facts.zero_share == 5 / 8


def test_zero_share_counts_a_weight_once_when_two_nodes_take_it() -> None:
    network = model(
        """(float[batch, 2] input) => (float[batch, 4] output) {
            a = MatMul (input, w)
            b = MatMul (input, w)
            c = MatMul (a, v)
            output = Add (c, b)
        }""",
        {"w": WEIGHT, "v": np.ones((4, 4), np.float32)},
    )
    assert zero_share(network) == 5 / 24


@pytest.mark.parametrize("zero_points", [[0, 0, 0, 0], [0, 7, 0, -7]])
def test_zero_share_reads_dequantised_weights_with_their_zero_points(zero_points: list[int]) -> None:
    network = model(
        """(float[batch, 2] input) => (float[batch, 4] output) {
            w = DequantizeLinear <axis = 1> (wq, s, z)
            output = MatMul (input, w)
        }""",
        {
            "wq": WEIGHT.astype(np.int8) + np.array(zero_points, np.int8),
            "s": np.full(4, 0.1, np.float32),
            "z": np.array(zero_points, np.int8),
        },
    )
    assert zero_share(network) == 5 / 8


def test_zero_share_decodes_codebooks_and_packed_indices() -> None:
    network = model(
        """(float[batch, 2] input) => (float[batch, 4] output) {
            wide = Cast <to = 6> (i)
            w = Gather (book, wide)
            output = MatMul (input, w)
        }""",
        {"book": np.array([5.0, 0.0, 1.0], np.float32)},
    )
    indices = onnx.helper.make_tensor("i", TensorProto.UINT4, (2, 4), [1, 0, 2, 1, 1, 1, 0, 2])
    network.graph.initializer.append(indices)
    assert zero_share(network) == 4 / 8  # the share of index 1, not of index 0


def test_zero_share_reads_half_precision_and_constant_nodes() -> None:
    network = model(
        "(float[batch, 2] input) => (float[batch, 4] output) { w = Cast <to = 1> (h) output = MatMul (input, w) }", {}
    )
    constant = onnx.helper.make_node("Constant", [], ["h"], value=numpy_helper.from_array(WEIGHT.astype(np.float16)))
    network.graph.node.insert(0, constant)
    assert zero_share(network) == 5 / 8


def test_zero_share_reads_integer_products_against_the_zero_point() -> None:
    network = model(
        """(float[batch, 2] input) => (int32[batch, 4] output) {
            q, s, z = DynamicQuantizeLinear (input)
            output = MatMulInteger (q, w, z, wz)
        }""",
        {"w": WEIGHT.astype(np.int8) + np.int8(3), "wz": np.int8(3)},
    )
    assert zero_share(network) == 5 / 8
    convolution = model(
        """(uint8[batch, 1, 2, 2] input) => (int32[batch, 2, 1, 1] output) {
            output = ConvInteger (input, w, z, wz)
        }""",
        {
            "w": (WEIGHT.astype(np.int8) + np.array([[1], [2]], np.int8)).reshape(2, 1, 2, 2),
            "z": np.uint8(0),
            "wz": np.array([1, 2], np.int8),
        },
    )
    assert zero_share(convolution) == 5 / 8


def test_zero_share_reads_four_bit_blocks() -> None:
    nibbles = WEIGHT.astype(np.int8) + 8
    packed = (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).astype(np.uint8).reshape(2, 1, 2)
    network = model(
        """(float[batch, 4] input) => (float[batch, 2] output) {
            output = com.microsoft.MatMulNBits <K = 4, N = 2, bits = 4, block_size = 4> (input, w, s)
        }""",
        {"w": packed, "s": np.ones(2, np.float32)},
    )
    assert zero_share(network) == 5 / 8


def test_zero_share_is_zero_when_there_are_no_weights() -> None:
    network = load_graph(
        model("(float[batch, 2] input) => (float[batch, 2] output) { output = Relu (input) }", {}).SerializeToString()
    )
    assert zero_share(network) == 0.0
