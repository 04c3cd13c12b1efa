import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tasks.contracts.errors import TechniqueError
from tasks.evaluation.onnx_flops import count_flops
from tasks.evaluation.onnx_graph import load_graph, measure_int8_coverage
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.techniques.quantization.blocks import quantise_blocks
from tasks.techniques.quantization.quantize_int4 import QuantizeInt4

GENERATOR = np.random.default_rng(0)


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    return run_rows(make_session(model), x)


def simulated(weight: np.ndarray, symmetric: bool, half_scales: bool) -> np.ndarray:
    """Return the weight [N, K] that blocks of 32 along K stand for."""
    blocks = quantise_blocks(weight.reshape(-1, 32), 1, symmetric=symmetric, half_scales=half_scales)
    return blocks.decoded().reshape(weight.shape)


@pytest.mark.parametrize("symmetric", [True, False])
def test_apply_computes_what_the_decoded_weights_give(product, context_on, symmetric):
    weight = GENERATOR.normal(size=(24, 64)).astype(np.float32)
    bias, x = GENERATOR.normal(size=24).astype(np.float32), GENERATOR.normal(size=(30, 64)).astype(np.float32)
    applied = QuantizeInt4(symmetric=symmetric, allow_slower=True).apply(product(weight, bias), context_on(x))
    expected = x @ simulated(weight, symmetric, half_scales=True).T + bias
    np.testing.assert_allclose(outputs(applied.model, x), expected, atol=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_apply_multiplies_by_the_weights_as_stored_when_asked(product, context_on, symmetric):
    weight = GENERATOR.normal(size=(24, 64)).astype(np.float32)
    bias, x = GENERATOR.normal(size=24).astype(np.float32), GENERATOR.normal(size=(30, 64)).astype(np.float32)
    spec = QuantizeInt4(symmetric=symmetric, decode="request", allow_slower=True)
    applied = spec.apply(product(weight, bias), context_on(x))
    assert [name.split()[0] for name in measure_int8_coverage(applied.model).float_nodes] == ["MatMulNBits"]
    expected = x @ simulated(weight, symmetric, half_scales=False).T + bias
    spread = np.abs(outputs(applied.model, x) - expected).max() / np.ptp(expected)
    assert spread < 0.01  # the kernel quantises the activations of a block to int8


def test_apply_packs_two_weights_to_a_byte(product, context_on):
    weight, x = GENERATOR.normal(size=(128, 256)), GENERATOR.normal(size=(20, 256)).astype(np.float32)
    applied = QuantizeInt4(allow_slower=True).apply(product(weight, np.zeros(128)), context_on(x))
    num_weights = weight.size
    expected = num_weights / 2 + num_weights / 32 * 2 + 128 * 4  # levels, scales in float16, biases
    assert expected < len(applied.model) < expected + 500
    assert applied.details["bits_per_weight"] == 4 + 16 / 32
    stored = {tensor.data_type for tensor in onnx.load_from_string(applied.model).graph.initializer}
    assert TensorProto.INT4 in stored


def test_apply_says_how_much_of_the_weights_is_noise(product, context_on):
    weight, x = GENERATOR.normal(size=(32, 64)).astype(np.float32), np.ones((20, 64), np.float32)
    applied = QuantizeInt4(allow_slower=True).apply(product(weight, np.zeros(32)), context_on(x))
    error = simulated(weight, symmetric=True, half_scales=True) - weight
    assert applied.details["weight_noise"] == pytest.approx((error**2).sum() / (weight**2).sum(), rel=1e-4)


def test_apply_runs_convolutions_at_float_speed_since_their_weights_are_folded(convolutions, context_on, draw_images):
    images = draw_images(120, 2)
    applied = QuantizeInt4(allow_slower=True).apply(convolutions, context_on(images.x, images.y))
    assert applied.details["int4_tensors"] == 3
    session_nodes = measure_int8_coverage(applied.model).float_nodes
    assert len(session_nodes) == 3
    before, after = outputs(convolutions, images.x), outputs(applied.model, images.x)
    assert (before.argmax(1) == images.y).mean() > 0.95
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.95
    assert count_flops(load_graph(applied.model), (1, 8, 8)) == count_flops(load_graph(convolutions), (1, 8, 8))


@pytest.mark.parametrize("decode", ["load", "request"])
def test_apply_keeps_the_answers_of_a_text_encoder_and_stores_its_embeddings(
    text_encoder, context_on, draw_tokens, decode
):
    rows = draw_tokens(150, 2)
    spec = QuantizeInt4(decode=decode, allow_slower=True)
    applied = spec.apply(text_encoder, context_on(rows.x, rows.y))
    before, after = outputs(text_encoder, rows.x), outputs(applied.model, rows.x)
    assert (before.argmax(1) == rows.y).mean() > 0.9
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.95
    assert applied.details["int4_tensors"] >= 6  # table, attention (2 or more), MLP (2), head
    floats = [
        numpy_helper.to_array(tensor).size
        for tensor in onnx.load_from_string(applied.model).graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    ]
    assert max(floats) < 200 * 32 / 8


def test_apply_keeps_zeros(convolutions, context_on, draw_images):
    model = onnx.load_from_string(convolutions)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [24, 16, 3, 3])
    values = numpy_helper.to_array(weight).copy()
    values[np.abs(values) < np.median(np.abs(values))] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    for symmetric in (True, False):
        spec = QuantizeInt4(symmetric=symmetric, allow_slower=True)
        applied = onnx.load_from_string(spec.apply(model.SerializeToString(), context_on(draw_images(100, 2).x)).model)
        folded = onnx.reference.ReferenceEvaluator(_giving_weights(applied))
        (decoded,) = (each for each in folded.run(None, {}) if each.shape == (24, 16, 3, 3))
        assert (decoded[values == 0] == 0).all()
        assert (decoded != 0).mean() > 0.3


def _giving_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep the nodes that decode weights alone, and give what they make."""
    graph = model.graph
    decoders = [node for node in graph.node if node.op_type in ("Cast", "Sub", "Mul", "Reshape")]
    weights = [node for node in graph.node if node.op_type == "Conv"]
    made = {name for node in decoders for name in node.output}
    outputs_ = [node.input[1] for node in weights if node.input[1] in made]
    needed: set[str] = set(outputs_)
    kept = []
    for node in reversed(decoders):
        if needed & set(node.output):
            kept.insert(0, node)
            needed |= set(node.input)
    values = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs_]
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    return onnx.helper.make_model(
        onnx.helper.make_graph(kept, "weights", [], values, tensors), opset_imports=model.opset_import
    )


def test_apply_keeps_layers_float_by_wish(vision_transformer, context_on, draw_images):
    context = context_on(draw_images(100, 2).x)
    all_of_them = QuantizeInt4(allow_slower=True).apply(vision_transformer, context)
    without = QuantizeInt4(keep_float=("blocks.0.*",), first_last_float=True, allow_slower=True)
    applied = without.apply(vision_transformer, context)
    assert 2 < applied.details["int4_tensors"] < all_of_them.details["int4_tensors"] - 3


def test_apply_says_so_when_there_is_nothing_to_quantise(product, context_on):
    model = product(np.ones((3, 4)), np.zeros(3))
    with pytest.raises(TechniqueError, match="no weight of 64 elements or more"):
        QuantizeInt4().apply(model, context_on(np.ones((20, 4), np.float32)))
