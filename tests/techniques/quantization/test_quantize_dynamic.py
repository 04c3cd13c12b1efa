import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tasks.contracts.errors import TechniqueError
from tasks.evaluation.onnx_flops import count_flops
from tasks.evaluation.onnx_graph import load_graph, measure_int8_coverage
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.techniques.quantization.dynamic import quantise_weight
from tasks.techniques.quantization.quantize_dynamic import QuantizeDynamic

GENERATOR = np.random.default_rng(0)


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    return run_rows(make_session(model), x)


def simulated_product(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Multiply one batch as DynamicQuantizeLinear and int8 channels define it, in whole numbers."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = np.float32(high - low) / 255
    zero_point = np.clip(np.round(-low / scale), 0, 255)
    x_q = np.clip(np.round(x / scale) + zero_point, 0, 255).astype(np.int64)
    weight_scale = np.abs(weight).max(axis=1) / 127  # [N]
    weight_q = np.round(weight / weight_scale[:, None]).astype(np.int64)
    return ((x_q - int(zero_point)) @ weight_q.T) * scale * weight_scale + bias


def test_quantise_weight_is_as_by_hand():
    weight = np.array([[1.27, -2.0], [0.635, 0.0]])
    levels, scales = quantise_weight(weight, channel_axis=1, max_level=127)
    np.testing.assert_array_equal(levels, [[127, -127], [64, 0]])  # 0.635 / 0.01 = 63.5, to even
    np.testing.assert_allclose(scales, [[0.01, 2 / 127]], rtol=1e-6)
    levels, scale = quantise_weight(weight, channel_axis=None, max_level=63)
    np.testing.assert_array_equal(levels, [[40, -63], [20, 0]])
    assert scale == pytest.approx(2 / 63)


def test_apply_computes_what_integers_give(product, context_on):
    weight, bias = GENERATOR.normal(size=(24, 64)), GENERATOR.normal(size=24)
    x = GENERATOR.normal(0.5, 1, size=(50, 64)).astype(np.float32)
    applied = QuantizeDynamic(allow_slower=True).apply(product(weight, bias), context_on(x))
    expected = simulated_product(x, weight.astype(np.float32), bias)
    np.testing.assert_allclose(outputs(applied.model, x), expected, atol=1e-4)
    assert applied.details["int8_coverage"] == 1.0


def test_apply_needs_no_rows_of_the_same_range_to_calibrate_on(product, context_on):
    weight, x = GENERATOR.normal(size=(8, 64)), GENERATOR.normal(size=(50, 64)).astype(np.float32)
    applied = QuantizeDynamic(allow_slower=True).apply(product(weight, np.zeros(8)), context_on(x))
    far = 1000 * x
    expected = far @ weight.T
    assert np.abs(outputs(applied.model, far) - expected).max() < 0.02 * np.ptp(expected)


@pytest.mark.parametrize("per_channel", [True, False])
def test_apply_runs_all_weighted_products_of_a_text_encoder_in_int8(text_encoder, context_on, draw_tokens, per_channel):
    rows = draw_tokens(150, 2)
    spec = QuantizeDynamic(per_channel=per_channel, allow_slower=True)
    applied = spec.apply(text_encoder, context_on(rows.x, rows.y))
    before, after = outputs(text_encoder, rows.x), outputs(applied.model, rows.x)
    assert (before.argmax(1) == rows.y).mean() > 0.9
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97
    assert applied.details["int8_embeddings"] == 1
    coverage = measure_int8_coverage(applied.model)
    assert len(coverage.float_nodes) == 2  # attention's scores and sums: both sides are activations
    assert coverage.num_int8 >= 4
    assert len(applied.model) < 0.45 * len(text_encoder)
    assert count_flops(load_graph(applied.model), (12,)) == count_flops(load_graph(text_encoder), (12,))


def test_apply_gives_every_row_of_a_batch_of_a_transformer_an_answer_of_its_own_size(
    vision_transformer, context_on, draw_images
):
    images = draw_images(150, 2)
    applied = QuantizeDynamic(allow_slower=True).apply(vision_transformer, context_on(images.x, images.y))
    before = outputs(vision_transformer, images.x)
    assert (before.argmax(1) == images.y).mean() > 0.9
    for batch_size in (1, 7, 150):
        after = run_rows(make_session(applied.model), images.x, batch_size=batch_size)
        assert (before.argmax(1) == after.argmax(1)).mean() > 0.97


def test_apply_leaves_convolutions_float_unless_asked(convolutions, context_on, draw_images):
    images = draw_images(120, 2)
    context = context_on(images.x, images.y)
    applied = QuantizeDynamic(allow_slower=True).apply(convolutions, context)
    assert (applied.details["int8_layers"], applied.details["float_layers"]) == (1, 2)
    applied = QuantizeDynamic(convolutions=True, allow_slower=True).apply(convolutions, context)
    assert (applied.details["int8_layers"], applied.details["float_layers"]) == (3, 0)
    before, after = outputs(convolutions, images.x), outputs(applied.model, images.x)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97
    assert np.abs(after - before).max() < 0.05 * np.ptp(before)


def test_apply_keeps_zeros(product, context_on):
    weight = GENERATOR.normal(size=(24, 64))
    weight[:, ::2] = 0
    applied = QuantizeDynamic(allow_slower=True).apply(
        product(weight, np.zeros(24)), context_on(np.ones((20, 64), np.float32))
    )
    tensors = onnx.load_from_string(applied.model).graph.initializer
    (stored,) = (value for tensor in tensors if (value := numpy_helper.to_array(tensor)).dtype == np.int8)
    assert (stored[::2] == 0).all()


def test_apply_keeps_layers_float_by_wish(text_encoder, context_on, draw_tokens):
    spec = QuantizeDynamic(keep_float=("block.*", "Gather"), allow_slower=True)
    applied = spec.apply(text_encoder, context_on(draw_tokens(100, 2).x))
    assert (applied.details["int8_layers"], applied.details["int8_embeddings"]) == (1, 0)


def test_apply_says_so_when_there_are_only_convolutions(convolutions, context_on, draw_images):
    with pytest.raises(TechniqueError, match=r"no matrix product with a constant weight among 3 layers"):
        QuantizeDynamic(keep_float=("Gemm",)).apply(convolutions, context_on(draw_images(100, 2).x))


@pytest.mark.slow
def test_apply_gives_equal_bytes_when_the_order_of_sets_differs(text_encoder, draw_tokens, tmp_path):
    (tmp_path / "model.onnx").write_bytes(text_encoder)
    np.save(tmp_path / "x.npy", draw_tokens(120, 2).x)
    code = """
import sys, hashlib, numpy as np
from pathlib import Path
from tasks.techniques.quantization.quantize_dynamic import QuantizeDynamic
from tasks.techniques.quantization.quantize_int4 import QuantizeInt4
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.technique import Arrays, StageContext
folder = Path(sys.argv[1])
x = np.load(folder / "x.npy")
load = lambda name: Arrays(x, np.arange(len(x)) % 3)
context = StageContext("classification", x.shape[1:], 3, 0, load, bytes, None, print)
for spec in (QuantizeDynamic, QuantizeInt4, QuantizeStatic):
    applied = spec(allow_slower=True).apply((folder / "model.onnx").read_bytes(), context)
    print(hashlib.sha256(applied.model).hexdigest())
"""

    def digests(hash_seed: str) -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path.cwd())}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert digests("1") == digests("2")
