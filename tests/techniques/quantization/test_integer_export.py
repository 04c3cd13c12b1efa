from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from tasks.contracts.model import Architecture
from tasks.evaluation.machine import instruction_sets, multiplies_int8_exactly
from tasks.evaluation.onnx_graph import measure_int8_coverage
from tasks.evaluation.parity import measure_parity
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.mlp import mlp
from tasks.models.mobilenet import mobilenet
from tasks.models.text_encoder import text_encoder
from tasks.models.vit import vit
from tasks.techniques.inference import outputs_of
from tasks.techniques.quantization.integer_export import float_by_wish, integer_onnx
from tasks.techniques.quantization.simulation import Simulation, simulate, weight_quantizer_of

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(48, 1, 8, 8)).astype(np.float32)
ROWS = GENERATOR.normal(size=(48, 6)).astype(np.float32)
TEXTS = GENERATOR.integers(1, 40, (48, 10))


class Pooled(nn.Module):
    """Max pooling, concatenation, average pooling, a layer without bias, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="zeros")
        self.hidden, self.head = nn.Linear(8, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        x = torch.cat([x, self.twice(self.twice(x))], dim=1)
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


CASES: dict[str, tuple[Callable[[], nn.Module], np.ndarray]] = {
    "mobilenet": (lambda: mobilenet([1, 8, 8], 3, width=8, blocks=(2,), expansion=2), IMAGES),
    "vit": (lambda: vit([1, 8, 8], 3, patch=4, width=16, depth=1, heads=2), IMAGES),
    "text_encoder": (lambda: text_encoder([10], 3, 40, width=16, depth=1), TEXTS),
    "mlp": (lambda: mlp([6], 3, hidden=[8, 8]), ROWS),
    "pooled": (Pooled, IMAGES),
}


def prepared(module: nn.Module, x: np.ndarray, bits: int, **options: object) -> Simulation:
    """Simulate a network whose batch norms have seen the rows."""
    with torch.no_grad():
        for _ in range(20):
            module.train()(torch.from_numpy(x))
    simulation = simulate(
        module.eval(), torch.from_numpy(x[:2]), **({"targets": ("*",), "ignore": (), "weight_bits": bits} | options)
    )
    simulation.calibrate(x)
    simulation.settle()
    return simulation


def export(simulation: Simulation, x: np.ndarray) -> bytes:
    return integer_onnx(simulation, Architecture(factory="test:network"), x.shape[1:], x.dtype.name)


@pytest.mark.parametrize(("case", "bits"), [(case, 4 if case in ("vit", "mlp") else 8) for case in CASES])
def test_export_runs_all_layers_in_int8_and_answers_as_simulated(case, bits):
    make, x = CASES[case]
    torch.manual_seed(0)
    simulation = prepared(make(), x, bits)
    exported = export(simulation, x)
    coverage = measure_int8_coverage(exported)
    num_products = sum(
        not isinstance(simulation.module.get_submodule(path), nn.Embedding) for path in simulation.layers
    )
    assert coverage.num_int8 == num_products + (case == "pooled")  # one of its layers is called twice
    assert set(coverage.float_nodes) == set(float_by_wish(simulation, coverage))
    assert all("attention" in node for node in coverage.float_nodes)
    if case == "pooled" and not multiplies_int8_exactly(instruction_sets()):
        return  # onnxruntime guards a layer that is called twice against overflow nowhere
    simulated = outputs_of(simulation.module, torch.from_numpy(x), 64).numpy()
    answers = run_rows(make_session(exported), x)
    assert measure_parity(simulated, answers).max_relative_difference < 0.03
    second, first = np.sort(simulated, axis=1)[:, -2:].T
    clear = first - second > 0.03 * np.ptp(simulated)  # an untrained network is often near a tie
    assert (simulated.argmax(axis=1) == answers.argmax(axis=1))[clear].all()


@pytest.fixture(scope="module")
def convolution() -> Simulation:
    torch.manual_seed(0)
    return prepared(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), IMAGES, 8)


@pytest.fixture(scope="module")
def exported(convolution: Simulation) -> bytes:
    return export(convolution, IMAGES)


def test_scales_and_zero_points_in_the_file_are_those_of_the_observers(convolution, exported):
    graph = onnx.load_from_string(exported).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    low, high = min(IMAGES.min(), 0), IMAGES.max()
    assert constants[first.input[1]] == pytest.approx((high - low) / 255, rel=1e-6)
    assert constants[first.input[2]] == round(-low / ((high - low) / 255))
    stored = next(node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants)
    layer = convolution.module.get_submodule("0")
    original = layer.parametrizations.weight.original.detach().numpy()
    by_hand = np.abs(original).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(constants[stored.input[1]], by_hand, rtol=1e-6)
    np.testing.assert_array_equal(constants[stored.input[0]], np.round(original / by_hand[:, None, None, None]))


def test_layers_keep_their_names(exported):
    graph = onnx.load_from_string(exported).graph
    assert [node.name for node in graph.node if node.name] == ["0", "3"]


def test_equal_simulations_give_equal_bytes_and_are_left_as_they_are(convolution, exported):
    before = outputs_of(convolution.module, torch.from_numpy(IMAGES), 64)
    assert export(convolution, IMAGES) == exported
    assert torch.equal(outputs_of(convolution.module, torch.from_numpy(IMAGES), 64), before)


def test_four_bit_weights_are_stored_in_half_the_bytes_and_run_as_int8():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 3))
    eight, four = (prepared(module, IMAGES, bits, eight_bit=("0",)) for bits in (8, 4))
    exported = export(four, IMAGES)
    tensors = onnx.load_from_string(exported).graph.initializer
    stored = {tensor.data_type: tensor for tensor in tensors if len(tensor.dims) > 1}
    assert set(stored) == {TensorProto.INT8, TensorProto.INT4}
    assert stored[TensorProto.INT8].dims == [32, 1, 3, 3]  # the one that keeps 8 bits
    assert len(export(eight, IMAGES)) - len(exported) == pytest.approx((32 * 32 * 9 + 512 * 3) / 2, rel=0.02)
    assert measure_int8_coverage(exported).share == 1.0
    layer = four.module.get_submodule("2")
    codes = weight_quantizer_of(layer).codes(layer.weight)
    assert (codes.abs().max(), codes.abs().max(dim=1).values.min() >= 1) == (7, True)


def test_a_channel_that_is_nearly_dead_keeps_its_bias():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
    with torch.no_grad():
        module[0].weight[0] *= 1e-9  # as weight decay before a batch norm leaves it
        module[0].bias[0] = 0.8
        module[3].weight[1] *= 1e-9
    exported = export(prepared(module, IMAGES, 8), IMAGES)
    with torch.no_grad():
        expected = module(torch.from_numpy(IMAGES)).numpy()
    parity = measure_parity(expected, run_rows(make_session(exported), IMAGES))
    assert parity.max_relative_difference < 0.03


@pytest.mark.parametrize("num_rows", [1, 5])
def test_the_batch_stays_dynamic(exported, num_rows):
    session = make_session(exported)
    np.testing.assert_array_equal(run_rows(session, IMAGES, batch_size=num_rows), run_rows(session, IMAGES))
