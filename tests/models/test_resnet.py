import pytest
import torch
from torch import fx, nn

from tasks.contracts.errors import ModelError
from tasks.models.resnet import resnet


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 11, 9), (1, 28, 28)])
def test_resnet_gives_one_output_row_per_image_when_the_images_have_any_size(input_shape: tuple[int, ...]) -> None:
    module = resnet(input_shape, num_outputs=7, width=4, blocks=[1, 2, 1], stem_stride=2).eval()
    assert module(torch.rand(3, *input_shape)).shape == (3, 7)


def test_resnet_has_the_parameters_counted_by_hand() -> None:
    def convolution(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs  # with the scale and offset of its batch norm

    stem = convolution(1, 4, 3)
    first = 2 * convolution(4, 4, 3)
    second = convolution(4, 8, 3) + convolution(8, 8, 3) + convolution(4, 8, 1)
    module = resnet((1, 8, 8), num_outputs=10, width=4, blocks=[1, 1])
    assert sum(p.numel() for p in module.parameters()) == stem + first + second + 8 * 10 + 10


def test_resnet_adds_the_shortcut_when_the_residual_branch_is_silenced() -> None:
    module = resnet((1, 8, 8), num_outputs=10, width=4, blocks=[1]).eval()
    block = module.get_submodule("stages.0.0")
    norm = block.get_submodule("norm2")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    features = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(features), features)


def test_resnet_is_traced_by_fx_to_the_same_function() -> None:
    module = resnet((1, 8, 8), num_outputs=10, width=4, blocks=[1, 1, 1], dropout=0.1).eval()
    traced = fx.symbolic_trace(module)
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(traced(images), module(images))
    assert sum(node.op == "call_module" and isinstance(traced.get_submodule(node.target), nn.Conv2d)
               for node in traced.graph.nodes if isinstance(node.target, str)) == 9  # fmt: skip


def test_resnet_learns_from_every_parameter() -> None:
    module = resnet((1, 8, 8), num_outputs=3, width=4, blocks=[1, 1])
    module(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize(
    ("input_shape", "kwargs", "message"),
    [
        ((64,), {}, r"\[64\].*use mlp"),
        ((1, 8, 8), {"blocks": []}, r"blocks=\[\]"),
        ((1, 8, 8), {"width": 0}, "width=0"),
        ((1, 8, 8), {"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_resnet_names_the_argument_when_it_is_out_of_bounds(input_shape, kwargs, message) -> None:
    with pytest.raises(ModelError, match=message):
        resnet(input_shape, 10, **kwargs)
