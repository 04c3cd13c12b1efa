import numpy as np
import onnx
from onnx import numpy_helper

from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.techniques.quantization.embeddings import embedding_lookups, quantise_embeddings, quantise_rows

GENERATOR = np.random.default_rng(0)


def lookup(body: str, table: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        net (int64[batch, 4] input) => (float[batch, 4, {table.shape[1]}] output) {{ {body} }}"""
    )
    model.graph.initializer.append(numpy_helper.from_array(table.astype(np.float32), "table"))
    return model


def test_quantise_rows_is_as_by_hand():
    rows, scales = quantise_rows(np.array([[1.27, -0.635], [0.0, 0.0], [-5.08, 0.08]], np.float32))
    np.testing.assert_array_equal(rows, [[127, -64], [0, 0], [-127, 2]])  # -63.5 and 0.08 / 0.04
    np.testing.assert_allclose(scales, [[0.01], [1.0], [0.04]], rtol=1e-6)


def test_quantise_embeddings_looks_up_the_decoded_rows():
    table, ids = GENERATOR.normal(size=(50, 16)), GENERATOR.integers(0, 50, (30, 4))
    model = lookup("output = Gather (table, input)", table)
    assert quantise_embeddings(model, ()) == 1
    rows, scales = quantise_rows(table.astype(np.float32))
    expected = (rows * scales)[ids]
    np.testing.assert_allclose(run_rows(make_session(model.SerializeToString()), ids), expected, atol=1e-6)
    assert {tensor.name for tensor in model.graph.initializer} == {"table_int8", "table_scale"}


def test_embedding_lookups_leaves_out_shared_small_and_excluded_tables():
    table = GENERATOR.normal(size=(50, 16))
    alone = lookup("output = Gather (table, input)", table)
    alone.graph.node[0].name = "tokens"
    assert len(embedding_lookups(alone.graph)) == 1
    assert not embedding_lookups(alone.graph, ["tokens"])
    shared = lookup("a = Gather (table, input) b = Gather (table, input) output = Add (a, b)", table)
    assert not embedding_lookups(shared.graph)
    small = lookup("output = Gather (table, input)", table[:3])
    assert not embedding_lookups(small.graph)
    columns = lookup("output = Gather <axis = 1> (table, input)", table)
    assert not embedding_lookups(columns.graph)
