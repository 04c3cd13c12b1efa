from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import fx, nn

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.mobilenet import InvertedResidual, mobilenet
from tasks.models.onnx_export import to_onnx
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.technique import Arrays, StageContext

KWARGS = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1, 2], "expansion": 2}


class NoCheckpoints:
    def save(self, data: bytes) -> None:
        raise AssertionError("nothing is trained here")

    def load(self) -> None:
        return None


@pytest.fixture(scope="module")
def network() -> Network:
    """Return a network whose batch norms have seen some rows."""
    made = Network.create(Architecture(factory="tasks.models.mobilenet:mobilenet", kwargs=KWARGS), seed=0)
    made.module.train()(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    made.module.eval()
    return made


@pytest.fixture(scope="module")
def exported(network: Network) -> bytes:
    return to_onnx(network, (1, 8, 8), "float32")


@pytest.fixture
def answer(network: Network) -> Callable[[np.ndarray], np.ndarray]:
    def outputs(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network.module(torch.from_numpy(x)).numpy()

    return outputs


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 11, 9), (1, 28, 28)])
def test_mobilenet_gives_one_output_row_per_image_when_the_images_have_any_size(input_shape: tuple[int, ...]) -> None:
    module = mobilenet(input_shape, num_outputs=7, width=4, blocks=[1, 2, 1], stem_stride=2).eval()
    assert module(torch.rand(3, *input_shape)).shape == (3, 7)


def test_mobilenet_has_the_parameters_counted_by_hand() -> None:
    def convolution(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs  # with the scale and offset of its batch norm

    def block(inputs: int, outputs: int) -> int:
        hidden = 3 * inputs
        return convolution(inputs, hidden, 1) + convolution(1, hidden, 3) + convolution(hidden, outputs, 1)

    module = mobilenet((1, 8, 8), num_outputs=10, width=4, blocks=[1, 2], expansion=3)
    expected = convolution(1, 4, 3) + block(4, 4) + block(4, 8) + block(8, 8) + convolution(8, 24, 1) + 24 * 10 + 10
    assert sum(p.numel() for p in module.parameters()) == expected


def test_mobilenet_has_no_expanding_convolution_when_expansion_is_one() -> None:
    module = mobilenet((1, 8, 8), 3, width=4, blocks=[1], expansion=1).eval()
    assert isinstance(module.get_submodule("stages.0.0.expand"), nn.Identity)
    assert module(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_inverted_residual_adds_its_input_when_the_shape_stays_and_only_then() -> None:
    images = torch.rand(2, 4, 8, 8)
    for num_channels, stride, is_residual in ((4, 1, True), (4, 2, False), (6, 1, False)):
        block = InvertedResidual(4, num_channels, stride, expansion=2).eval()
        norm = block.get_submodule("project.norm")
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        silenced = block(images)
        assert torch.equal(silenced, images if is_residual else torch.zeros_like(silenced))


def test_mobilenet_is_rebuilt_from_its_bytes_with_the_same_outputs(network: Network) -> None:
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(Network.from_bytes(network.to_bytes()).module(images), network.module(images))


def test_mobilenet_answers_the_same_in_onnx_when_the_batch_has_any_size(exported: bytes, answer) -> None:
    session = make_session(exported)
    for num_rows in (1, 7):
        x = np.random.default_rng(num_rows).normal(size=(num_rows, 1, 8, 8)).astype(np.float32)
        np.testing.assert_allclose(run_rows(session, x), answer(x), atol=1e-5)


def test_mobilenet_runs_wholly_in_int8_when_it_is_quantised(exported: bytes, answer) -> None:
    x = np.random.default_rng(0).normal(size=(120, 1, 8, 8)).astype(np.float32)
    context = StageContext(
        task="classification",
        input_shape=(1, 8, 8),
        num_outputs=3,
        seed=0,
        load_split=lambda name: Arrays(x, np.arange(120) % 3),
        load_baseline=lambda: pytest.fail("nothing is distilled here"),
        checkpoints=NoCheckpoints(),
        report=lambda record: None,
    )
    applied = QuantizeStatic(num_calibration_rows=100, allow_slower=True).apply(exported, context)
    assert applied.details["int8_coverage"] == 1.0
    expected = answer(x)
    difference = run_rows(make_session(applied.model), x) - expected
    assert np.abs(difference).max() <= 0.1 * np.ptp(expected)


def test_mobilenet_is_traced_by_fx_to_the_same_function() -> None:
    module = mobilenet((1, 8, 8), 3, width=4, blocks=[1, 2], dropout=0.1).eval()
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(fx.symbolic_trace(module)(images), module(images))


def test_mobilenet_learns_from_every_parameter() -> None:
    torch.manual_seed(0)
    module = mobilenet((1, 8, 8), num_outputs=3, width=4, blocks=[1, 2])
    module(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize(
    ("input_shape", "kwargs", "message"),
    [
        ((64,), {}, r"\[64\].*use mlp"),
        ((1, 8, 8), {"blocks": []}, r"blocks=\[\]"),
        ((1, 8, 8), {"blocks": [1, 0]}, r"blocks=\[1, 0\]"),
        ((1, 8, 8), {"width": 0}, "width=0"),
        ((1, 8, 8), {"expansion": 0}, "expansion=0"),
        ((1, 8, 8), {"dropout": 1.0}, r"dropout=1\.0"),
    ],
)
def test_mobilenet_names_the_argument_when_it_is_out_of_bounds(input_shape, kwargs, message) -> None:
    with pytest.raises(ModelError, match=message):
        mobilenet(input_shape, 10, **kwargs)
