import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import TechniqueError
from tasks.models.resnet import resnet
from tasks.techniques.distillation.features import caught, layer_shapes
from tasks.techniques.distillation.layer_pairs import Tap


class Recording(nn.Module):
    """A network with an unused layer, a layer that runs twice, and one that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)
        self.twice = Doubling()

    def forward(self, x: Tensor) -> Tensor:
        features, _ = self.twice(x=self.first(self.first(x)))
        return features


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return 2 * x, "more"


def hooks_of(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def test_caught_gives_the_tensors_of_the_last_pass_with_their_history() -> None:
    module, x = Recording(), torch.randn(4, 3)
    taps = [Tap("twice"), Tap("twice", "input"), Tap("first", "input"), Tap("first")]
    with caught(module, taps) as tensors:
        module(torch.randn(2, 3))
        outputs = module(x)
        double, double_input, first_input, first = tensors.take()
    once = module.first(x)
    torch.testing.assert_close(double, outputs)
    torch.testing.assert_close(double_input, module.first(once))  # of a layer that runs twice, the last time
    torch.testing.assert_close(first_input, once)
    torch.testing.assert_close(first, module.first(once))
    double.sum().backward()
    assert module.first.weight.grad is not None
    assert hooks_of(module) == 0


def test_caught_refuses_features_of_an_earlier_pass_and_of_a_layer_that_did_not_run() -> None:
    module = Recording()
    with caught(module, [Tap("first")]) as tensors:
        module(torch.randn(2, 3))
        tensors.take()
        with pytest.raises(TechniqueError, match="'first' took no part"):
            tensors.take()
    with caught(module, [Tap("unused")]) as tensors:
        module(torch.randn(2, 3))
        with pytest.raises(TechniqueError, match="'unused' took no part"):
            tensors.take()


def test_caught_refuses_a_layer_that_gives_no_tensor() -> None:
    class Names(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "names"

    module = nn.Sequential(Names())
    with caught(module, [Tap("0")]), pytest.raises(TechniqueError, match="output of layer '0' is no tensor"):
        module(torch.zeros(1))
    assert hooks_of(module) == 0


def test_layer_shapes_list_layers_in_the_order_in_which_they_end() -> None:
    module = resnet((1, 8, 8), 3, width=4, blocks=[1, 1]).train()
    shapes = layer_shapes(module, torch.zeros(2, 1, 8, 8))
    by_path = {layer.path: layer.shape for layer in shapes}
    assert list(by_path)[:4] == ["stem.conv", "stem.norm", "stem.relu", "stem"]
    assert by_path["stages.0"] == (4, 8, 8)
    assert by_path["stages"] == by_path["stages.1.0.relu2"] == (8, 4, 4)
    assert by_path["head"] == (3,)
    assert "" not in by_path
    assert [layer.path for layer in shapes if layer.is_linear] == ["head"]
    assert module.training
    assert hooks_of(module) == 0


def test_layer_shapes_leave_out_what_did_not_run_and_what_computes_weights() -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    module = Recording()
    parametrize.register_parametrization(module.first, "weight", Half())
    paths = [layer.path for layer in layer_shapes(module, torch.zeros(3, 3))]  # weights have 3 rows too
    assert paths == ["first", "twice"]
