import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.onnx_compact import compact

TEXT = """
<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
net (float[batch, 2, 6, 6] input) => (float[batch, 4, 3, 3] output) {
    first_convolution_output = Conv
        <auto_pad = "NOTSET", dilations = [1, 1], group = 1, pads = [1, 1, 1, 1], strides = [1, 1]> (input, w1, b1)
    rectified = Relu (first_convolution_output)
    second = Conv <dilations = [1, 1], pads = [1, 1, 1, 1], strides = [2, 2]> (rectified, w2, b2)
    output = Add (second, offset)
}
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    parsed = onnx.parser.parse_model(TEXT)
    weight = generator.normal(size=(4, 2, 3, 3)).astype(np.float32)
    constants = {
        "w1": weight,
        "b1": np.ones(4, np.float32),
        "w2": generator.normal(size=(4, 4, 3, 3)).astype(np.float32),
        "b2": np.ones(4, np.float32),
        "offset": np.float32(2.0),
        "unused": np.ones(100, np.float32),
    }
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for number, node in enumerate(parsed.graph.node):
        node.name = f"a long name of node {number}"
        node.doc_string = "a stack trace"
        node.metadata_props.append(onnx.StringStringEntryProto(key="origin", value="somewhere"))
    parsed.producer_version = "1.2.3"
    return onnx.shape_inference.infer_shapes(parsed)


def test_compact_gives_equal_outputs_and_fewer_bytes(model):
    small = compact(model)
    onnx.checker.check_model(small, full_check=True)
    x = np.random.default_rng(1).normal(size=(7, 2, 6, 6)).astype(np.float32)
    original, copy = (run_rows(make_session(each.SerializeToString()), x) for each in (model, small))
    np.testing.assert_array_equal(copy, original)
    num_weight_bytes = 4 * (4 * 2 * 9 + 4 * 4 * 9 + 4 + 1)
    assert small.ByteSize() - num_weight_bytes < 0.5 * (model.ByteSize() - num_weight_bytes - 400)


def test_compact_leaves_its_argument_as_it_was(model):
    before = model.SerializeToString()
    compact(model)
    assert model.SerializeToString() == before


def test_compact_takes_out_notes_defaults_duplicates_and_what_is_unused(model):
    small = compact(model)
    assert len(small.graph.initializer) == 4  # b1 and b2 are equal, `unused` is unused
    assert small.graph.node[0].input[2] == small.graph.node[2].input[2]
    assert [sorted(a.name for a in node.attribute) for node in small.graph.node] == [
        ["pads"],
        [],
        ["pads", "strides"],
        [],
    ]
    assert not small.graph.value_info
    assert [opset.domain for opset in small.opset_import] == [""]
    for secret in (b"stack trace", b"somewhere", b"1.2.3", b"rectified"):
        assert secret not in small.SerializeToString()


def test_compact_keeps_the_names_of_inputs_outputs_and_layers(model):
    graph = compact(model).graph
    assert (graph.input[0].name, graph.output[0].name) == ("input", "output")
    assert [node.name for node in graph.node] == ["a long name of node 0", "", "a long name of node 2", ""]


def test_compact_gives_equal_bytes_when_only_names_and_order_of_initializers_differ(model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    initializers = [*reversed(other.graph.initializer)]
    other.graph.ClearField("initializer")
    other.graph.initializer.extend(initializers)
    other.graph.node[1].input[0] = other.graph.node[0].output[0] = "another name"
    assert compact(other).SerializeToString() == compact(model).SerializeToString()


def test_compact_keeps_equal_values_apart_when_their_types_or_shapes_differ():
    parsed = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, 2] input) => (float[batch, 2] output) {
            a = Reshape (input, s1) b = Add (a, zeros) c = Add (b, row) output = Reshape (c, s2) }"""
    )
    constants = {
        "s1": np.array([-1, 2]),
        "zeros": np.zeros(2, np.float32),
        "row": np.zeros((1, 2), np.float32),
        "s2": np.array([-1, 2]),
    }
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    assert len(compact(parsed).graph.initializer) == 3


def test_compact_merges_equal_values_when_one_is_stored_as_raw_bytes_and_one_is_not():
    parsed = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, 2] input) => (float[batch, 2] output) { a = Add (input, u) output = Add (a, v) }"""
    )
    parsed.graph.initializer.append(helper.make_tensor("u", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]))
    parsed.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "v"))
    assert len(compact(parsed).graph.initializer) == 1


def test_compact_only_strips_notes_when_there_are_nested_graphs():
    branch = """{ then_out = Add (input, long_name) }"""
    parsed = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[2] input, bool c) => (float[2] output) {{
            output = If (c) <then_branch = g1 () => (float[2] then_out) {branch},
                             else_branch = g2 () => (float[2] e) {{ e = Identity (input) }}> }}"""
    )
    parsed.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "long_name"))
    parsed.graph.doc_string = "a stack trace"
    small = compact(parsed)
    onnx.checker.check_model(small)
    assert [tensor.name for tensor in small.graph.initializer] == ["long_name"]
    assert not small.graph.doc_string
