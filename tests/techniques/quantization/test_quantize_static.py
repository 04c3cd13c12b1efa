import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture
from tasks.evaluation.onnx_graph import read_graph_facts
from tasks.evaluation.parity import measure_parity
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.quantization.quantize_static import QuantizeStatic, calibration_rows
from tasks.techniques.technique import Arrays, StageContext

MakeContext = Callable[..., StageContext]
GENERATOR = np.random.default_rng(0)


class ResidualNetwork(nn.Module):
    """Stem, two residual blocks (the second with a projection), global average pooling, linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = normed(1, width)
        self.conv1, self.conv2 = normed(width, width), normed(width, width)
        self.conv3, self.conv4 = normed(width, 2 * width, stride=2), normed(2 * width, 2 * width)
        self.project = normed(width, 2 * width, kernel=1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        x = torch.relu(self.project(x) + self.conv4(torch.relu(self.conv3(x))))
        return self.head(self.pool(x).flatten(1))


def normed(num_inputs: int, num_outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(num_inputs, num_outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_outputs))


def exported(module: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    return to_onnx(Network(Architecture(factory="test:network"), module), input_shape, "float32")


@pytest.fixture(scope="module")
def trained(draw_images: Callable[[int, int], Arrays]) -> bytes:
    """Return a residual network that has learned the striped images, as ONNX."""
    torch.manual_seed(0)
    module = ResidualNetwork(16)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    images = draw_images(96, 1)
    for _ in range(12):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(images.x)), torch.from_numpy(images.y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return exported(module, (1, 8, 8))


@pytest.fixture
def context(make_context: MakeContext, draw_images: Callable[[int, int], Arrays]) -> StageContext:
    return make_context(load_split=lambda name: draw_images(300, 2))


def product(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """Return one Gemm called `layer`: input [batch, K] times weight [N, K] transposed."""
    num_outputs, num_inputs = weight.shape
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, {num_inputs}] input) => (float[batch, {num_outputs}] output) {{
            output = Gemm <transB = 1> (input, w, b)
        }}"""
    )
    model.graph.node[0].name = "layer"
    for name, value in (("w", weight), ("b", bias)):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return model.SerializeToString()


def context_on(x: np.ndarray, make_context: MakeContext, **members: object) -> StageContext:
    split = Arrays(x.astype(np.float32), np.arange(len(x)) % 3)
    return make_context(input_shape=x.shape[1:], load_split=lambda name: split, **members)


def constants_of(model: onnx.ModelProto, node: onnx.NodeProto) -> list[np.ndarray | None]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [values.get(name) for name in node.input]


def test_apply_gives_scales_and_zero_points_as_by_hand(make_context):
    x = np.array([[-1.0, 0.5], [3.0, 0.25], [0.0, -0.5]])  # range [-1, 3]
    weight, bias = np.array([[0.5, -1.27], [2.54, 0.0]]), np.array([1.0, -2.0])
    applied = QuantizeStatic(allow_slower=True).apply(product(weight, bias), context_on(x, make_context))
    model = onnx.load_from_string(applied.model)
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    _, scale, zero_point = constants_of(model, quantize)
    assert scale == pytest.approx(4 / 255)
    assert zero_point == 64  # round(1 / (4 / 255)) = round(63.75)
    stored = {
        values[0].dtype.name: values
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and (values := constants_of(model, node))[0] is not None
    }
    np.testing.assert_array_equal(stored["int8"][0], [[50, -127], [127, 0]])
    np.testing.assert_allclose(stored["int8"][1], [0.01, 0.02], rtol=1e-6)
    np.testing.assert_array_equal(stored["int32"][0], np.round(bias / (4 / 255 * np.array([0.01, 0.02]))))
    assert [node.op_type for node in model.graph.node][-1] == "Gemm"  # its output stays float


def test_apply_is_within_the_rounding_error_of_the_integers(make_context):
    weight, x = GENERATOR.normal(size=(3, 16)), GENERATOR.uniform(-1, 3, size=(200, 16))
    applied = QuantizeStatic(allow_slower=True).apply(product(weight, np.zeros(3)), context_on(x, make_context))
    outputs = run_rows(make_session(applied.model), x.astype(np.float32))
    step_x, step_w = 4 / 255, np.abs(weight).max(axis=1) / 127  # each value is off by at most half a step
    bound = 16 * (0.5 * step_x * np.abs(weight).max() + 0.5 * step_w.max() * 3 + 0.25 * step_x * step_w.max())
    assert np.abs(outputs - x @ weight.T).max() < bound


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_apply_runs_fully_in_int8_and_keeps_the_answers(trained, context, draw_images, calibration):
    applied = QuantizeStatic(calibration=calibration, allow_slower=True).apply(trained, context)
    images = draw_images(240, 3)
    original, quantised = (run_rows(make_session(each), images.x) for each in (trained, applied.model))
    parity = measure_parity(original, quantised)
    assert (original.argmax(axis=1) == images.y).mean() > 0.95
    assert parity.agreement >= 0.98
    assert parity.max_relative_difference < 0.1
    assert applied.details["int8_coverage"] == 1.0
    assert (applied.details["int8_layers"], applied.details["float_layers"]) == (7, 0)
    assert applied.details["calibration_rows"] == 256


def test_apply_keeps_parameters_and_flops_and_takes_a_quarter_of_the_bytes(make_context, draw_images):
    torch.manual_seed(0)
    original = exported(ResidualNetwork(64), (1, 8, 8))
    context = make_context(load_split=lambda name: draw_images(100, 2))
    applied = QuantizeStatic(allow_slower=True).apply(original, context)
    before, after = (read_graph_facts(each, (1, 8, 8)) for each in (original, applied.model))
    assert (after.num_parameters, after.flops) == (before.num_parameters, before.flops)
    assert 3.8 < before.size_bytes / after.size_bytes < 4.0
    assert after.int8.share == 1.0


def test_apply_takes_out_what_no_runtime_needs(trained, context):
    applied = QuantizeStatic(allow_slower=True).apply(trained, context)
    assert applied.details["size_bytes"] == len(applied.model)
    assert applied.details["size_bytes_before_compaction"] - len(applied.model) > 5000
    model = onnx.load_from_string(applied.model)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node if node.name]
    assert sorted(names) == ["conv1.0", "conv2.0", "conv3.0", "conv4.0", "head", "project.0", "stem.0"]


@pytest.mark.parametrize("num_rows", [1, 7, 32])
def test_apply_keeps_the_batch_dynamic(trained, context, draw_images, num_rows):
    session = make_session(QuantizeStatic(allow_slower=True).apply(trained, context).model)
    x = draw_images(32, 4).x
    together, alone = run_rows(session, x), run_rows(session, x, batch_size=num_rows)
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize(
    ("spec", "floats"),
    [
        (QuantizeStatic(first_last_float=True, allow_slower=True), ["Conv stem.0", "Gemm head"]),
        (QuantizeStatic(keep_float=("conv[12].*",), allow_slower=True), ["Conv conv1.0", "Conv conv2.0"]),
        (QuantizeStatic(keep_float=("Gemm",), allow_slower=True), ["Gemm head"]),
    ],
)
def test_apply_keeps_layers_float_by_wish(trained, context, spec, floats):
    applied = spec.apply(trained, context)
    assert sorted(read_graph_facts(applied.model, (1, 8, 8)).int8.float_nodes) == floats
    assert applied.details["float_layers"] == len(floats)


def test_apply_names_the_layers_when_keep_float_matches_none(trained, context):
    with pytest.raises(TechniqueError, match=r"'nothing\.\*' matches no node; the layers are stem\.0, conv1\.0"):
        QuantizeStatic(keep_float=("nothing.*",), allow_slower=True).apply(trained, context)


def test_apply_names_the_float_layers_when_too_few_run_in_int8(make_context):
    class NotAllInInt8(nn.Module):
        """A transposed convolution has no int8 kernel."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.up = nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(torch.tanh(self.first(x)))

    model, context = exported(NotAllInInt8(), (1, 8, 8)), context_on(GENERATOR.normal(size=(20, 1, 8, 8)), make_context)
    message = r"only 50% of the layers run in int8 .* 90% is asked for\. In float: ConvTranspose up; kept float .*none"
    with pytest.raises(TechniqueError, match=message):
        QuantizeStatic(allow_slower=True).apply(model, context)
    applied = QuantizeStatic(min_coverage=0.5, allow_slower=True).apply(model, context)
    assert applied.details["int8_coverage"] == 0.5


def test_apply_says_so_when_the_model_is_quantised_already(trained, context):
    quantised = QuantizeStatic(allow_slower=True).apply(trained, context).model
    with pytest.raises(TechniqueError, match="is quantised already"):
        QuantizeStatic(allow_slower=True).apply(quantised, context)


def test_apply_says_so_when_there_is_nothing_to_quantise(make_context):
    text = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[batch, 2] input) => (float[batch, 2] output) { output = Relu (input) }"""
    model = onnx.parser.parse_model(text).SerializeToString()
    with pytest.raises(TechniqueError, match=r"found no Conv, Gemm, MatMul to quantise among \['Relu'\]"):
        QuantizeStatic(allow_slower=True).apply(model, context_on(np.ones((5, 2)), make_context))


def test_apply_prints_nothing_and_leaves_no_files(trained, context, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    QuantizeStatic(allow_slower=True).apply(trained, context)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_apply_gives_equal_bytes_when_the_order_of_sets_differs(trained, draw_images, tmp_path):
    (tmp_path / "model.onnx").write_bytes(trained)
    np.save(tmp_path / "x.npy", draw_images(120, 2).x)
    code = """
import sys, hashlib, numpy as np
from pathlib import Path
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.technique import Arrays, StageContext
folder = Path(sys.argv[1])
x = np.load(folder / "x.npy")
load = lambda name: Arrays(x, np.arange(len(x)) % 3)
context = StageContext("classification", x.shape[1:], 3, 0, load, bytes, None, print)
applied = QuantizeStatic(allow_slower=True).apply((folder / "model.onnx").read_bytes(), context)
print(hashlib.sha256(applied.model).hexdigest())
"""

    def digest(hash_seed: str) -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path.cwd())}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert digest("1") == digest("2")


@pytest.fixture(scope="module")
def unequal(trained: bytes) -> bytes:
    """Return the trained network with channels of very different scales: what one multiplies by, the next divides by.

    ReLU lets positive factors through, so the network computes the same.
    """
    model = onnx.load_from_string(trained)
    layers = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    factors = np.geomspace(1, 100, 16).astype(np.float32)

    def scale(name: str, factor: np.ndarray) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensors[name]) * factor, name))

    scale(layers["conv1.0"].input[1], factors[:, None, None, None])
    scale(layers["conv1.0"].input[2], factors)
    scale(layers["conv2.0"].input[1], 1 / factors[None, :, None, None])
    scale(layers["conv3.0"].input[1], np.geomspace(1, 100, 32).astype(np.float32)[:, None, None, None])
    scale(layers["conv3.0"].input[2], np.geomspace(1, 100, 32).astype(np.float32))
    scale(layers["conv4.0"].input[1], 1 / np.geomspace(1, 100, 32).astype(np.float32)[None, :, None, None])
    return model.SerializeToString()


def test_per_channel_beats_per_tensor_when_channels_have_different_scales(unequal, context, draw_images):
    images = draw_images(240, 3)
    reference = run_rows(make_session(unequal), images.x)
    noise = {}
    for per_channel in (True, False):
        applied = QuantizeStatic(per_channel=per_channel, allow_slower=True).apply(unequal, context)
        noise[per_channel] = np.square(run_rows(make_session(applied.model), images.x) - reference).mean()
    assert noise[True] < 0.5 * noise[False]


def test_per_channel_gives_smaller_weight_errors_by_construction(make_context):
    weight = GENERATOR.normal(size=(8, 32)) * np.geomspace(1, 1000, 8)[:, None]
    errors = {}
    for per_channel in (True, False):
        spec = QuantizeStatic(per_channel=per_channel, allow_slower=True)
        applied = spec.apply(product(weight, np.zeros(8)), context_on(GENERATOR.normal(size=(50, 32)), make_context))
        model = onnx.load_from_string(applied.model)
        stored, scales = next(
            (values[0], values[1])
            for node in model.graph.node
            if node.op_type == "DequantizeLinear"
            and (values := constants_of(model, node))[0] is not None
            and values[0].dtype == np.int8
        )
        decoded = stored * (scales[:, None] if scales.ndim else scales)
        errors[per_channel] = np.abs(decoded.reshape(8, 32) - weight).max(axis=1)
    steps = np.abs(weight).max(axis=1) / 127
    assert (errors[True] <= 0.51 * steps).all()
    assert errors[False][0] > 100 * steps[0] / 2  # one scale for all: the smallest channel vanishes


def test_apply_keeps_zeros(trained, context):
    model = onnx.load_from_string(trained)
    masks = {}
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            values = numpy_helper.to_array(tensor).copy()
            values[np.abs(values) < np.median(np.abs(values))] = 0
            masks[values.shape] = masks.get(values.shape, 0) + (values == 0).sum()
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    applied = QuantizeStatic(allow_slower=True).apply(model.SerializeToString(), context)
    kept: dict[tuple[int, ...], int] = {}
    for tensor in onnx.load_from_string(applied.model).graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim == 4:
            kept[values.shape] = kept.get(values.shape, 0) + (values == 0).sum()
    assert kept.keys() == masks.keys()
    assert all(kept[shape] >= masks[shape] for shape in masks)


def test_apply_runs_the_weighted_products_of_a_vision_transformer_in_int8(vision_transformer, context, draw_images):
    images = draw_images(240, 3)
    applied = QuantizeStatic(allow_slower=True).apply(vision_transformer, context)
    before, after = (run_rows(make_session(each), images.x) for each in (vision_transformer, applied.model))
    assert (before.argmax(axis=1) == images.y).mean() > 0.9
    assert measure_parity(before, after).agreement >= 0.97
    floats = read_graph_facts(applied.model, (1, 8, 8)).int8.float_nodes
    assert len(floats) == 4  # two blocks' products of two activations
    assert (
        applied.details["int8_layers"] == 1 + 2 * 6 + 1
    )  # patches; q, k, v, projection and two of the MLP in each block; head


def test_apply_leaves_norm_softmax_gelu_and_the_residual_stream_of_a_transformer_float(vision_transformer, context):
    model = onnx.load_from_string(QuantizeStatic(allow_slower=True).apply(vision_transformer, context).model)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    users = {name: node.op_type for node in model.graph.node for name in node.input}
    fed_int8 = [node.op_type for node in model.graph.node if makers.get(node.input[0]) == "DequantizeLinear"]
    assert not {"LayerNormalization", "Softmax", "Gelu"} & set(fed_int8)
    assert fed_int8.count("Add") <= 1  # the positions, behind the patches' convolution, which gives int8 alone
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert not [node.name for node in products if users.get(node.output[0]) == "QuantizeLinear"]


def test_apply_runs_attention_in_int8_when_asked(vision_transformer, context, draw_images):
    images = draw_images(240, 3)
    applied = QuantizeStatic(int8_attention=True, allow_slower=True).apply(vision_transformer, context)
    before, after = (run_rows(make_session(each), images.x) for each in (vision_transformer, applied.model))
    assert measure_parity(before, after).agreement >= 0.95
    assert applied.details["int8_coverage"] == 1.0


def test_apply_stores_embeddings_and_products_of_a_text_encoder_in_int8(text_encoder, make_context, draw_tokens):
    rows = draw_tokens(240, 3)
    context = make_context(input_shape=(12,), load_split=lambda name: rows)
    applied = QuantizeStatic(allow_slower=True).apply(text_encoder, context)
    before, after = (run_rows(make_session(each), rows.x) for each in (text_encoder, applied.model))
    assert (before.argmax(axis=1) == rows.y).mean() > 0.9
    assert measure_parity(before, after).agreement >= 0.97
    assert len(read_graph_facts(applied.model, (12,)).int8.float_nodes) == 2
    table = [t for t in onnx.load_from_string(applied.model).graph.initializer if list(t.dims) == [200, 32]]
    assert [tensor.data_type for tensor in table] == [onnx.TensorProto.INT8]


@pytest.mark.parametrize("name", ["stem.0", "conv1.0", "conv2.0", "conv3.0", "conv4.0", "project.0", "head"])
def test_apply_keeps_the_very_layer_float_that_is_named(trained, context, name):
    """onnxruntime would quantise a float weight between int8 neighbours on its own."""
    applied = QuantizeStatic(keep_float=(name,), allow_slower=True).apply(trained, context)
    floats = read_graph_facts(applied.model, (1, 8, 8)).int8.float_nodes
    assert [each.split()[-1] for each in floats] == [name]


def test_calibration_rows_takes_as_many_of_each_class_as_there_are():
    labels = np.array([0] * 500 + [1] * 30 + [2] * 470)
    split = Arrays(np.arange(1000, dtype=np.float32)[:, None], labels)
    drawn = calibration_rows(split, "classification", 230, seed=0)[:, 0].astype(int)
    assert len(set(drawn)) == 230
    np.testing.assert_array_equal(np.bincount(labels[drawn]), [100, 30, 100])


def test_calibration_rows_depends_on_the_seed_alone():
    split = Arrays(np.arange(600, dtype=np.float32)[:, None], np.arange(600) % 3)
    first, again, other = (calibration_rows(split, "classification", 100, seed)[:, 0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_calibration_rows_spans_the_targets_when_the_task_is_regression():
    targets = np.random.default_rng(0).permutation(1000).astype(np.float32)
    drawn = calibration_rows(Arrays(targets[:, None], targets), "regression", 101, seed=0)
    np.testing.assert_allclose(np.sort(drawn[:, 0]), np.linspace(0, 999, 101), atol=0.5)


def test_calibration_rows_takes_all_when_there_are_not_enough():
    split = Arrays(np.zeros((40, 2), np.float32), np.zeros(40))
    assert len(calibration_rows(split, "classification", 100, seed=0)) == 40


@pytest.mark.parametrize("fields", [{"num_calibration_rows": 99}, {"calibration": "mean"}, {"min_coverage": 1.1}])
def test_spec_rejects_values_out_of_bounds(fields):
    with pytest.raises(ValidationError):
        QuantizeStatic(**fields)


@pytest.mark.parametrize("last", ["relu", "hardtanh"])
def test_activation_between_an_int8_product_and_a_float_layer_is_not_lost(make_context: MakeContext, last: str) -> None:
    torch.manual_seed(0)
    activation = nn.ReLU() if last == "relu" else nn.Hardtanh(-0.1, 0.2)
    layers = [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), activation, nn.Linear(32, 3)]
    module = nn.Sequential(*layers).eval()
    x = GENERATOR.normal(size=(200, 6)).astype(np.float32)
    context = make_context(
        input_shape=(6,), load_split=lambda name: Arrays(x, np.zeros(200, dtype=np.int64))
    )  # fmt: skip
    made = QuantizeStatic(first_last_float=True, allow_slower=True).apply(exported(module, (6,)), context).model
    found = run_rows(make_session(made), x)
    expected = module(torch.from_numpy(x)).detach().numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
