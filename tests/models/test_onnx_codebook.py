import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.evaluation.onnx_flops import count_flops
from tasks.evaluation.onnx_graph import count_parameters
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.codebook import Codebook
from tasks.models.onnx_codebook import pack_codebooks, packed_weights, unpack_codebooks
from tasks.models.onnx_compact import compact

GENERATOR = np.random.default_rng(0)


def few_valued(shape: tuple[int, ...], num_values: int) -> np.ndarray:
    values = GENERATOR.normal(size=num_values).astype(np.float32)
    return values[GENERATOR.integers(0, num_values, shape)]


def product(weight: np.ndarray, opset: int = 21) -> onnx.ModelProto:
    """Return one Gemm: input [batch, I] times weight [O, I] transposed."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        net (float[batch, {weight.shape[1]}] input) => (float[batch, {weight.shape[0]}] output) {{
            output = Gemm <transB = 1> (input, w)
        }}"""
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return run_rows(make_session(model.SerializeToString()), x)


def optimised_operators(model: onnx.ModelProto, tmp_path) -> list[str]:
    path = tmp_path / "optimised.onnx"
    make_session(model.SerializeToString(), optimized_model=path)
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("num_values", "bits", "index_type"),
    [(2, 4, TensorProto.UINT4), (16, 4, TensorProto.UINT4), (200, 8, TensorProto.UINT8)],
)
def test_pack_codebooks_stores_short_indices_and_decodes_to_the_very_weights(num_values, bits, index_type, tmp_path):
    weight = few_valued((255, 511), num_values)  # an odd number of weights
    plain = product(weight)
    packed = pack_codebooks(plain)
    onnx.checker.check_model(packed, full_check=True)
    indices = next(t for t in packed.graph.initializer if t.data_type == index_type)
    assert len(indices.raw_data) == -(-weight.size * bits // 8)
    assert packed.ByteSize() < weight.size * bits / 8 + 4 * num_values + 300
    x = GENERATOR.normal(size=(7, 511)).astype(np.float32)
    np.testing.assert_array_equal(run(packed, x), run(plain, x))
    assert optimised_operators(packed, tmp_path) == optimised_operators(plain, tmp_path) == ["Gemm"]


def test_pack_codebooks_leaves_its_argument_and_is_undone_by_unpack():
    plain = product(few_valued((64, 64), 9))
    before = plain.SerializeToString()
    packed = pack_codebooks(plain)
    assert plain.SerializeToString() == before
    assert unpack_codebooks(packed).SerializeToString() == before
    assert unpack_codebooks(plain).SerializeToString() == before


def test_pack_codebooks_keeps_one_codebook_and_a_scale_per_channel_when_channels_were_multiplied(tmp_path):
    book = Codebook(
        values_GK=GENERATOR.normal(size=(1, 16)).astype(np.float32),
        indices=GENERATOR.integers(0, 16, (32, 100)).astype(np.uint8),
        groups_O=np.zeros(32, np.int64),
    )
    folded = book.decoded() * GENERATOR.normal(size=(32, 1)).astype(np.float32)
    plain = product(folded)
    packed = pack_codebooks(plain, [known_elsewhere(), book])
    (found,) = packed_weights(packed)
    assert found.codebook.values_GK.shape == (1, 16)
    assert found.codebook.scales_O.shape == (32,)
    assert packed.ByteSize() < 32 * 100 / 2 + 32 * 4 + 400
    x = GENERATOR.normal(size=(7, 100)).astype(np.float32)
    np.testing.assert_allclose(run(packed, x), run(plain, x), rtol=1e-5, atol=1e-4)
    assert optimised_operators(packed, tmp_path) == ["Gemm"]


def known_elsewhere() -> Codebook:
    """Return the codebook of another layer of the same shape."""
    indices = GENERATOR.integers(0, 16, (32, 100)).astype(np.uint8)
    return Codebook(np.arange(16, dtype=np.float32)[None], indices, np.zeros(32, np.int64))


def test_packed_weights_reads_groups_and_scales_back_after_compaction():
    first, second = few_valued((8, 600), 16), few_valued((8, 600), 16)
    weight = np.concatenate([first, second])
    packed = compact(pack_codebooks(product(weight)))
    (found,) = packed_weights(packed)
    assert found.codebook.values_GK.shape == (2, 16)
    np.testing.assert_array_equal(found.codebook.decoded(), weight)
    np.testing.assert_array_equal(numpy_helper.to_array(unpack_codebooks(packed).graph.initializer[0]), weight)


def test_pack_codebooks_follows_the_output_channels_of_a_matrix_product():
    weight = np.concatenate([few_valued((600, 8), 16), few_valued((600, 8), 16)], axis=1)  # MatMul: [inputs, outputs]
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, 600] input) => (float[batch, 16] output) { output = MatMul(input, w) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    (found,) = packed_weights(pack_codebooks(model))
    assert found.codebook.axis == 1
    np.testing.assert_array_equal(found.codebook.decoded(), weight)


@pytest.mark.parametrize(
    "model",
    [
        product(GENERATOR.normal(size=(64, 64)).astype(np.float32)),
        product(few_valued((4, 8), 16)),
        product(few_valued((64, 64), 16), opset=20),
    ],
    ids=["many values", "too small to pay", "before 4-bit initializers"],
)
def test_pack_codebooks_leaves_the_model_as_it_is_when_packing_does_not_pay_or_fit(model):
    assert pack_codebooks(model).SerializeToString() == model.SerializeToString()


def test_pack_codebooks_leaves_a_weight_alone_when_the_outside_sees_it():
    model = product(few_valued((64, 64), 4))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]))
    assert packed_weights(pack_codebooks(model)) == []


def test_parameters_and_flops_are_those_of_the_decoded_weights():
    weight = np.concatenate([few_valued((8, 600), 16), few_valued((8, 600), 16)])
    plain, packed = product(weight), pack_codebooks(product(weight))
    assert len(packed.graph.node) > 1
    assert count_parameters(packed) == count_parameters(plain) == weight.size
    assert count_flops(packed, (600,)) == count_flops(plain, (600,)) == 2 * weight.size


def test_packed_weights_overlooks_a_lookup_that_is_no_decoding():
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, 4] input) => (float[batch, 4] output) {
            rows = Cast <to = 6> (places)
            table = Gather(w, rows)
            output = Add(input, table)
        }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([300]), "places"))
    model.graph.initializer.append(numpy_helper.from_array(few_valued((400, 4), 30), "w"))
    assert packed_weights(model) == []
