import re

import numpy as np
import onnx
import pytest

from tasks.contracts.errors import ModelError
from tasks.evaluation.onnx_flops import count_flops


def model(body: str, weights: dict[str, tuple[int, ...]], signature: str) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]>\ngraph ({signature}) => (float output) {{ {body} }}'
    )
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    for name, dims in weights.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(dims, np.float32), name))
    return parsed


IMAGE = "float[batch, 4, 8, 8] input"


@pytest.mark.parametrize(
    ("body", "weights", "flops"),
    [
        ("output = Conv <pads = [1, 1, 1, 1]> (input, w)", {"w": (6, 4, 3, 3)}, 2 * 6 * 64 * 4 * 9),
        ("output = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (input, w)", {"w": (6, 4, 3, 3)}, 2 * 6 * 16 * 4 * 9),
        ("output = Conv <group = 4> (input, w)", {"w": (4, 1, 3, 3)}, 2 * 4 * 36 * 9),
        ("output = ConvTranspose <strides = [2, 2]> (input, w)", {"w": (4, 5, 2, 2)}, 2 * (4 * 64) * 5 * 4),
        ("f = Flatten (input) output = Gemm <transB = 1> (f, w, b)", {"w": (10, 256), "b": (10,)}, 2 * 256 * 10),
        ("output = MatMul (input, w)", {"w": (8, 3)}, 2 * (4 * 8 * 3) * 8),
        ("r = Relu (input) output = GlobalAveragePool (r)", {}, 0),
    ],
)
def test_count_flops_equals_the_count_by_hand(body, weights, flops):
    assert count_flops(model(body, weights, IMAGE), (4, 8, 8)) == flops


def test_count_flops_sums_over_layers_and_inner_products():
    body = "q = MatMul (input, w) t = Transpose <perm = [0, 2, 1]> (q) output = MatMul (q, t)"
    attention = model(body, {"w": (16, 8)}, "float[batch, 5, 16] input")
    assert count_flops(attention, (5, 16)) == 2 * 5 * 16 * 8 + 2 * 5 * 8 * 5


def test_count_flops_names_node_and_tensor_when_a_shape_depends_on_the_data():
    body = "n = NonZero (input) f = Cast <to = 1> (n) output = MatMul (w, f)"
    with pytest.raises(ModelError, match="FLOPs of MatMul 'output' cannot be counted"):
        count_flops(model(body, {"w": (3, 2)}, "float[batch, 5] input"), (5,))


@pytest.mark.parametrize("rows", [(3, 8, 8), (8, 8)])
def test_count_flops_names_both_shapes_when_rows_do_not_fit(rows):
    conv = model("output = Conv (input, w)", {"w": (6, 4, 3, 3)}, "float[batch, 4, height, width] input")
    with pytest.raises(ModelError, match=rf"rows of shape \(4, None, None\), not {re.escape(str(rows))}"):
        count_flops(conv, rows)


def test_count_flops_names_the_layer_when_inner_shapes_contradict_each_other():
    product = model("output = MatMul (input, w)", {"w": (9, 3)}, "float[batch, width] input")
    with pytest.raises(ModelError, match="MatMul"):
        count_flops(product, (8,))
