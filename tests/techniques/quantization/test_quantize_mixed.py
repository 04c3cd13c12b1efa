import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from tasks.contracts.errors import TechniqueError
from tasks.evaluation.onnx_graph import measure_int8_coverage
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.techniques.quantization.quantize_mixed import QuantizeMixed
from tasks.techniques.quantization.quantize_static import QuantizeStatic


@pytest.fixture(scope="module")
def fragile(convolutions: bytes) -> bytes:
    """Spread the second convolution's input channels over five orders of magnitude, and make up for it in its weight.

    In float nothing changes; in int8 one scale serves all channels of that layer's input, and most are lost.
    """
    model = onnx.load_from_string(convolutions)
    factors = np.geomspace(1, 1e5, 16).astype(np.float32)
    first, second = [node for node in model.graph.node if node.op_type == "Conv"]
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name == first.input[1]:
            values = values * factors[:, None, None, None]
        elif tensor.name == first.input[2]:
            values = values * factors
        elif tensor.name == second.input[1]:
            values = values / factors[None, :, None, None]
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    return run_rows(make_session(model), x)


def test_apply_finds_the_layer_that_int8_harms_and_keeps_it_float(fragile, convolutions, context_on, draw_images):
    images = draw_images(150, 2)
    context = context_on(images.x, images.y)
    np.testing.assert_allclose(outputs(fragile, images.x), outputs(convolutions, images.x), atol=1e-3)
    static = QuantizeStatic(allow_slower=True).apply(fragile, context)
    mixed = QuantizeMixed(max_drop=0.01, allow_slower=True).apply(fragile, context)
    accuracies = [
        (outputs(model, images.x).argmax(axis=1) == images.y).mean() for model in (fragile, static.model, mixed.model)
    ]
    assert accuracies[0] - accuracies[1] > 0.05
    assert accuracies[0] - accuracies[2] <= 0.01
    assert mixed.details["calibration_drop"] == pytest.approx(accuracies[0] - accuracies[2])
    assert mixed.details["float_by_sensitivity"] == "2"  # its path in the torch module
    assert mixed.details["layer_harms"].startswith("2 ")
    assert measure_int8_coverage(mixed.model).float_nodes == ("Conv 2",)


def test_apply_is_plain_static_int8_when_nothing_is_harmed(convolutions, context_on, draw_images):
    images = draw_images(120, 2)
    context = context_on(images.x, images.y)
    mixed = QuantizeMixed(max_drop=0.5, allow_slower=True).apply(convolutions, context)
    assert mixed.model == QuantizeStatic(allow_slower=True).apply(convolutions, context).model
    assert mixed.details["float_by_sensitivity"] == "none"


def test_apply_keeps_as_many_layers_float_as_the_size_allows(fragile, context_on, draw_images):
    images = draw_images(120, 2)
    applied = QuantizeMixed(max_drop=None, max_size_ratio=0.45, allow_slower=True).apply(
        fragile, context_on(images.x, images.y)
    )
    assert len(applied.model) <= 0.45 * len(fragile)
    assert applied.details["float_layers"] >= 1
    assert "2" not in applied.details["float_by_sensitivity"].split(", ")  # it holds nine tenths of the weights


def test_apply_says_so_when_even_int8_throughout_is_too_large(convolutions, context_on, draw_images):
    spec = QuantizeMixed(max_drop=None, max_size_ratio=0.1, allow_slower=True)
    with pytest.raises(TechniqueError, match=r"with 0 layers float the file has \d+ B, 0\.\d+ of the incoming"):
        spec.apply(convolutions, context_on(draw_images(100, 2).x))


def test_apply_says_so_when_both_budgets_cannot_hold(fragile, context_on, draw_images):
    images = draw_images(120, 2)
    spec = QuantizeMixed(max_drop=0.01, max_size_ratio=0.45, allow_slower=True)
    with pytest.raises(TechniqueError, match="raise it or max_drop"):
        spec.apply(fragile, context_on(images.x, images.y))


def test_spec_needs_a_budget():
    with pytest.raises(ValidationError, match="needs a budget"):
        QuantizeMixed(max_drop=None)
