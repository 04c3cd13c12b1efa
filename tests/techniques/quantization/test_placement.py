import pytest
import torch
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.models.mlp import mlp
from tasks.models.resnet import ResidualBlock, resnet
from tasks.models.vit import vit
from tasks.techniques.quantization.fake_quantize import ActivationQuantizer, OnGrid
from tasks.techniques.quantization.simulation import Simulation, simulate

IMAGES = torch.zeros(2, 1, 8, 8)


def simulated(module: nn.Module, example: Tensor = IMAGES, **options: object) -> Simulation:
    return simulate(module, example, **({"targets": ("*",), "ignore": (), "weight_bits": 8} | options))


def rounded(simulation: Simulation) -> list[str]:
    """Return the nodes whose values are rounded, in order."""
    return [
        node.all_input_nodes[0].name
        for node in simulation.module.graph.nodes
        if node.op == "call_module" and isinstance(simulation.module.get_submodule(node.target), ActivationQuantizer)
    ]


def test_a_residual_block_is_rounded_behind_its_clippings_and_on_both_sides_of_its_sum():
    block = ResidualBlock(1, 4, stride=2)
    assert rounded(simulated(block)) == ["x_bchw", "relu1", "conv2", "shortcut_conv", "relu2"]


def test_pooling_is_rounded_and_the_classifiers_output_is_not():
    simulation = simulated(resnet([1, 8, 8], 3, width=4, blocks=[1]))
    assert rounded(simulation)[-2:] == ["stages_0_0_relu2", "pool"]
    moved = [name for name, module in simulation.module.named_modules() if isinstance(module, OnGrid)]
    assert moved == ["quantizers.flatten"]  # dropout does nothing when deployed
    assert simulation.layers["head"].input_quantizer == "quantizers.pool"


def test_only_what_enters_linear_layers_is_rounded_in_a_table_network():
    simulation = simulated(mlp([5], 3, hidden=[4, 4]), torch.zeros(2, 5))
    assert len(rounded(simulation)) == len(simulation.layers) == 3


def test_residual_sums_and_norms_of_a_transformer_stay_float():
    simulation = simulated(vit([1, 8, 8], 3, patch=4, width=8, depth=1, heads=2))
    assert not [name for name in rounded(simulation) if "add" in name or "softmax" in name]
    queries, keys = (simulation.layers[f"blocks.0.attention.{name}"] for name in ("query", "key"))
    assert queries.input_quantizer == keys.input_quantizer  # the norm's output is rounded once


class FloatResidual(nn.Module):
    """A linear layer whose input goes on in float beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) + self.linear(torch.tanh(x))


def test_other_users_of_a_linear_layers_input_keep_it_in_float():
    simulation = simulated(FloatResidual(), torch.zeros(2, 4))
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    simulation.calibrate(x.numpy())
    with torch.no_grad():
        simulation.module.linear.parametrizations.weight.original.zero_()
        simulation.module.linear.bias.zero_()
    assert torch.equal(simulation.module(x), torch.tanh(x))


def test_ignored_layers_stay_float_and_are_not_rounded_around():
    simulation = simulated(resnet([1, 8, 8], 3, width=4, blocks=[1]), ignore=("stem.*", "head"))
    assert list(simulation.layers) == ["stages.0.0.conv1", "stages.0.0.conv2"]
    assert "x" not in rounded(simulation)


def test_mean_over_height_and_width_is_rounded_as_a_pooling():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3)))

    assert rounded(simulated(Mean())) == ["x", "conv", "adaptive_avg_pool2d"]


def test_simulate_says_why_when_the_network_cannot_be_traced():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(TechniqueError, match=r"Branching cannot be traced.*control flow.*or use quantize_static"):
        simulated(Branching())


def test_simulate_names_the_layers_when_a_glob_matches_none():
    with pytest.raises(TechniqueError, match=r"'nothing' matches no layer; the layers are stem\.conv"):
        simulated(resnet([1, 8, 8], 3, width=4, blocks=[1]), ignore=("nothing",))


class Attending(nn.Module):
    """torch's own attention is one operation, whose inner layers are not called as layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0])


def test_simulate_says_so_when_no_chosen_layer_is_called():
    with pytest.raises(TechniqueError, match=r"calls none of the layers attention\.out_proj as a layer"):
        simulated(Attending(), torch.zeros(2, 3, 4), targets=("attention.*",))


def test_simulate_names_the_layers_that_it_cannot_reach():
    simulation = simulated(Attending(), torch.zeros(2, 3, 4))
    assert (list(simulation.layers), simulation.unreached) == (["head"], ("attention.out_proj",))
