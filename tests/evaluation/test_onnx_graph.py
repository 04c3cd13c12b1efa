import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tasks.contracts.errors import ModelError
from tasks.evaluation.onnx_graph import count_parameters, load_graph, measure_int8_coverage, read_graph_facts

GENERATOR = np.random.default_rng(0)


def model(text: str, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return parsed


def small_network() -> onnx.ModelProto:
    network = model(
        """net (float[batch, 3, 8, 8] input) => (float[batch, 5] output) {
            c = Conv <pads = [1, 1, 1, 1]> (input, w, b)
            r = Relu (c)
            half = Mul (r, factor)
            p = GlobalAveragePool (half)
            f = Reshape (p, shape)
            output = Gemm <transB = 1> (f, v, d)
        }""",
        {
            "w": GENERATOR.normal(size=(16, 3, 3, 3)).astype(np.float32),
            "b": np.zeros(16, np.float32),
            "factor": np.float32(0.5),
            "shape": np.array([-1, 16]),
            "v": GENERATOR.normal(size=(5, 16)).astype(np.float32),
            "d": np.zeros(5, np.float32),
        },
    )
    for node, name in ((network.graph.node[0], "stem"), (network.graph.node[5], "head")):
        node.name = name
    return network


def quantised_product(num_outputs: int) -> onnx.ModelProto:
    """Multiply by an int8 weight with one scale and zero point per output, and add a float product."""
    return model(
        f"""net (float[batch, 32] input) => (float[batch, {num_outputs}] output) {{
            q = QuantizeLinear (input, s, z)
            x = DequantizeLinear (q, s, z)
            w = DequantizeLinear <axis = 1> (wq, ws, wz)
            y = MatMul (x, w)
            output = MatMul (y, u)
        }}""",
        {
            "s": np.float32(0.1),
            "z": np.uint8(128),
            "wq": GENERATOR.integers(-127, 127, (32, num_outputs)).astype(np.int8),
            "ws": np.full(num_outputs, 0.01, np.float32),
            "wz": np.zeros(num_outputs, np.int8),
            "u": GENERATOR.normal(size=(num_outputs, num_outputs)).astype(np.float32),
        },
    )


def test_read_graph_facts_equals_the_count_by_hand():
    serialised = small_network().SerializeToString()
    facts = read_graph_facts(serialised, (3, 8, 8))
    assert facts.num_parameters == 16 * 3 * 9 + 16 + 5 * 16 + 5
    assert facts.flops == 2 * (16 * 64 * 27) + 2 * (5 * 16)
    assert facts.size_bytes == len(serialised)
    assert facts.size_zip_bytes == len(zlib.compress(serialised, 9))
    assert facts.int8.num_int8 == 0
    assert facts.int8.share == 0.0


def test_measure_int8_coverage_names_float_layers_when_onnxruntime_blocked_or_fused_them():
    coverage = measure_int8_coverage(small_network().SerializeToString())
    assert sorted(name.split()[-1] for name in coverage.float_nodes) == ["head", "stem"]


def test_measure_int8_coverage_is_a_half_when_one_of_two_products_is_quantised():
    coverage = measure_int8_coverage(quantised_product(16).SerializeToString())
    assert coverage.share == 0.5
    assert len(coverage.float_nodes) == 1


def test_measure_int8_coverage_is_zero_when_only_the_weights_are_quantised():
    weight_only = quantised_product(16)
    weight_only.graph.node[3].input[0] = "input"
    coverage = measure_int8_coverage(weight_only.SerializeToString())
    assert coverage.num_int8 == 0
    assert len(coverage.float_nodes) == 2


def test_count_parameters_leaves_out_scales_and_zero_points():
    assert count_parameters(quantised_product(16)) == 32 * 16 + 16 * 16


def test_count_parameters_counts_packed_indices_and_constant_nodes():
    shared = model(
        "net (float[batch, 8] input) => (float[batch, 4] output) { w = Gather (book, i) output = MatMul (input, w) }",
        {"book": np.arange(16, dtype=np.float32)},
    )
    indices = onnx.helper.make_tensor("i", TensorProto.UINT4, (8, 4), bytes(16), raw=True)
    shared.graph.initializer.append(indices)
    assert count_parameters(shared) == 16 + 8 * 4
    weight = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    shared.graph.node[0].CopyFrom(onnx.helper.make_node("Constant", [], ["w"], value=weight))
    assert count_parameters(shared) == 8 * 4


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not onnx at all"])
def test_load_graph_raises_when_the_bytes_are_no_model(data):
    with pytest.raises(ModelError, match=f"these {len(data)} bytes are"):
        load_graph(data)


def test_load_graph_raises_when_weights_lie_in_other_files():
    network = small_network()
    network.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="keeps 1 weights in other files"):
        load_graph(network.SerializeToString())
