import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tasks.contracts.errors import TechniqueError
from tasks.evaluation.onnx_graph import measure_int8_coverage, read_graph_facts
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.techniques.quantization.half_storage import LARGEST
from tasks.techniques.quantization.quantize_bfloat16 import QuantizeBfloat16
from tasks.techniques.quantization.quantize_float16 import QuantizeFloat16

GENERATOR = np.random.default_rng(0)
each_type = pytest.mark.parametrize(
    ("spec", "dtype"),
    [(QuantizeFloat16(allow_slower=True), np.float16), (QuantizeBfloat16(allow_slower=True), ml_dtypes.bfloat16)],
    ids=["float16", "bfloat16"],
)


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    return run_rows(make_session(model), x)


@each_type
def test_apply_computes_in_float32_what_the_rounded_weights_give(product, context_on, spec, dtype):
    weight, x = GENERATOR.normal(size=(24, 64)).astype(np.float32), GENERATOR.normal(size=(30, 64)).astype(np.float32)
    applied = spec.apply(product(weight, np.zeros(24)), context_on(x))
    np.testing.assert_allclose(outputs(applied.model, x), x @ weight.astype(dtype).astype(np.float32).T, atol=1e-5)


def test_bfloat16_rounds_as_by_hand():
    # 8 bits of precision: between 1 and 2 the step is 2^-7
    assert np.float32(1 + 2**-7 + 2**-10).astype(ml_dtypes.bfloat16) == 1 + 2**-7
    assert float(ml_dtypes.finfo(ml_dtypes.bfloat16).max) == LARGEST["bfloat16"]
    assert float(np.finfo(np.float16).max) == LARGEST["float16"]


@each_type
def test_apply_halves_the_file_and_keeps_the_answers_of_every_kind_of_model(
    convolutions, vision_transformer, text_encoder, context_on, draw_images, draw_tokens, spec, dtype
):
    for model, rows in (
        (convolutions, draw_images(90, 2)),
        (vision_transformer, draw_images(90, 2)),
        (text_encoder, draw_tokens(90, 2)),
    ):
        applied = spec.apply(model, context_on(rows.x, rows.y))
        before, after = outputs(model, rows.x), outputs(applied.model, rows.x)
        assert (before.argmax(1) == after.argmax(1)).mean() > 0.98
        limit = 0.002 if dtype is np.float16 else 0.02
        assert np.abs(after - before).max() < limit * np.ptp(before)
        assert len(applied.model) < 0.62 * len(model)
        shape = rows.x.shape[1:]
        assert read_graph_facts(applied.model, shape).flops == read_graph_facts(model, shape).flops
        assert read_graph_facts(applied.model, shape).num_parameters == read_graph_facts(model, shape).num_parameters


@each_type
def test_apply_leaves_no_conversion_in_the_graph_that_runs(
    convolutions, context_on, draw_images, tmp_path, spec, dtype
):
    applied = spec.apply(convolutions, context_on(draw_images(60, 2).x))
    make_session(applied.model, optimized_model=tmp_path / "optimised.onnx")
    assert "Cast" not in {node.op_type for node in onnx.load_model(tmp_path / "optimised.onnx").graph.node}


@each_type
def test_apply_keeps_zeros_and_shared_values(product, context_on, spec, dtype):
    weight = GENERATOR.choice([-0.3, 0.0, 0.7, 0.11], size=(32, 32))
    applied = spec.apply(product(weight, np.zeros(32)), context_on(np.ones((20, 32), np.float32)))
    stored = next(
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(applied.model).graph.initializer
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    )
    np.testing.assert_array_equal(stored == 0, weight == 0)
    assert len(np.unique(stored.astype(np.float32))) == 4


def test_float16_refuses_a_weight_beyond_its_range_and_names_it(product, context_on):
    weight = np.ones((32, 32))
    weight[3, 4] = -70_000.0
    model, context = product(weight, np.zeros(32)), context_on(np.ones((20, 32), np.float32))
    with pytest.raises(
        TechniqueError, match=r"weight 'w' of Gemm layer has the value 70000, and float16 ends at 65504"
    ):
        QuantizeFloat16().apply(model, context)
    QuantizeBfloat16(allow_slower=True).apply(model, context)


def test_float16_computes_in_float16_when_asked(convolutions, context_on, draw_images):
    images = draw_images(90, 2)
    applied = QuantizeFloat16(compute="float16", allow_slower=True).apply(convolutions, context_on(images.x, images.y))
    graph = onnx.load_from_string(applied.model).graph
    assert {tensor.data_type for tensor in graph.initializer} & {TensorProto.FLOAT16, TensorProto.FLOAT} == {
        TensorProto.FLOAT16
    }
    assert graph.input[0].type.tensor_type.elem_type == graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    before, after = outputs(convolutions, images.x), outputs(applied.model, images.x)
    assert np.abs(after - before).max() < 0.01 * np.ptp(before)


def test_float16_refuses_an_activation_beyond_its_range_when_it_is_to_compute_so(product, context_on):
    model, x = product(np.full((32, 32), 1000.0), np.zeros(32)), np.full((20, 32), 10.0, np.float32)
    with pytest.raises(TechniqueError, match=r"activation 'output' takes the value 320000 .* float16 ends at 65504"):
        QuantizeFloat16(compute="float16").apply(model, context_on(x))
    QuantizeFloat16(allow_slower=True).apply(model, context_on(x))


@each_type
def test_apply_says_so_when_there_is_nothing_to_store(product, context_on, spec, dtype):
    with pytest.raises(TechniqueError, match="no float32 weight of 64 elements or more"):
        spec.apply(product(np.ones((2, 3)), np.zeros(2)), context_on(np.ones((20, 3), np.float32)))


@each_type
def test_details_say_that_nothing_runs_in_int8(convolutions, context_on, draw_images, spec, dtype):
    applied = spec.apply(convolutions, context_on(draw_images(60, 2).x))
    assert applied.details["int8_coverage"] == measure_int8_coverage(applied.model).share == 0.0
