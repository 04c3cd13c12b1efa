from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.quantization.checks import require_speed
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.quantization.slowness import slowness_reasons

GENERATOR = np.random.default_rng(0)


def products(num_products: int) -> bytes:
    names = ["input", *(f"h{index}" for index in range(num_products - 1)), "output"]
    lines = "\n".join(f"{after} = MatMul ({before}, w)" for before, after in pairwise(names))
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, 12] input) => (float[batch, 12] output) {{ {lines} }}"""
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"layer{index}"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(12, dtype=np.float32), "w"))
    return model.SerializeToString()


X = GENERATOR.normal(size=(20, 12)).astype(np.float32)
SMALL, LARGE = products(1), products(300)


def test_require_speed_gives_the_figures_of_a_faster_model():
    details = require_speed(LARGE, SMALL, X, kind="quantize_it", seed=0, allow_slower=False)
    assert set(details) == {"measured_speedup", "measured_speedup_lower", "measured_speedup_upper"}
    assert 1 < details["measured_speedup_lower"] <= details["measured_speedup"] <= details["measured_speedup_upper"]


def test_require_speed_stops_a_model_that_is_proven_slower_and_says_why():
    message = (
        r"quantize_it made the model slower: 0\.\d+ times .* 300 of 300 layers multiply in float \(MatMul layer0, "
    )
    with pytest.raises(TechniqueError, match=message):
        require_speed(SMALL, LARGE, X, kind="quantize_it", seed=0, allow_slower=False)


def test_require_speed_notes_the_reasons_when_slower_is_allowed():
    details = require_speed(SMALL, LARGE, X, kind="quantize_it", seed=0, allow_slower=True)
    assert details["measured_speedup_upper"] < 0.9
    assert "multiply in float" in details["measured_slower_because"]


def test_require_speed_does_not_stop_a_model_that_is_as_fast():
    for seed in range(5):
        details = require_speed(LARGE, LARGE, X, kind="quantize_it", seed=seed, allow_slower=False)
        assert details["measured_speedup_lower"] <= details["measured_speedup"] <= details["measured_speedup_upper"]


class Unsuited(nn.Module):
    """Convolutions of every kind that int8 does not help."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.grouped = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 32, 3, groups=8)
        self.up, self.line, self.head = nn.ConvTranspose2d(32, 32, 2), nn.Conv1d(32, 32, 3), nn.Linear(32 * 23, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(torch.tanh(self.grouped(self.narrow(x))))
        return self.head(self.line(x.flatten(2)).flatten(1))


def test_slowness_reasons_name_layers_conversions_widths_and_kinds(context_on):
    torch.manual_seed(0)
    before = to_onnx(Network(Architecture(factory="test:network"), Unsuited()), (1, 8, 8), "float32")
    x = GENERATOR.normal(size=(100, 1, 8, 8)).astype(np.float32)
    after = QuantizeStatic(min_coverage=0, allow_slower=True, keep_float=("narrow",)).apply(before, context_on(x)).model
    reasons = "; ".join(slowness_reasons(before, after))
    assert "layers multiply in float (" in reasons
    assert "Conv narrow" in reasons
    assert "conversions between number formats remain" in reasons
    assert "under 16 channels: narrow (8)" in reasons
    assert "grouped (8 groups)" in reasons
    assert "up (transposed)" in reasons
    assert "line (1-dimensional)" in reasons


def test_slowness_reasons_are_few_when_a_wide_network_runs_in_int8(context_on):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    before = to_onnx(Network(Architecture(factory="test:network"), module), (1, 16, 16), "float32")
    x = GENERATOR.normal(size=(100, 1, 16, 16)).astype(np.float32)
    after = QuantizeStatic(allow_slower=True).apply(before, context_on(x)).model
    (reason,) = slowness_reasons(before, after)
    assert reason == "1 conversions between number formats remain in the optimised graph"
