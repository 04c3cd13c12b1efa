import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.techniques.quantization.folding import ChannelAffine, fold_batch_norms
from tasks.techniques.quantization.tracing import trace


def with_statistics(module: nn.Module) -> nn.Module:
    """Give batch norms statistics, scales and offsets that matter."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)
    return module.eval()


class NormTwice(nn.Module):
    """The convolution's output is used with and without the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Tokens(nn.Module):
    """A batch norm over the tokens, which are not the linear layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


IMAGES, ROWS, SEQUENCES = (3, 2, 6, 6), (3, 6), (3, 5, 6)
CASES = {
    "convolution": (nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), IMAGES, 1),
    "biased": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGES, 1),
    "depthwise": (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), IMAGES, 1),
    "linear": (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), ROWS, 1),
    "before the layer": (nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Linear(6, 4)), ROWS, 0),
    "other users": (NormTwice(), IMAGES, 0),
    "other axis": (Tokens(), SEQUENCES, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_fold_batch_norms_keeps_the_outputs(case):
    module, shape, num_foldable = CASES[case]
    module = with_statistics(module)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    traced = trace(module, x)
    assert fold_batch_norms(traced) == num_foldable
    torch.testing.assert_close(traced(x), module(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, _BatchNorm) for layer in traced.modules())
    assert all(parameter.requires_grad for parameter in traced.parameters())


def test_what_cannot_be_folded_stays_as_an_affine_map_that_trains_if_the_norm_did():
    trained, fixed = (ChannelAffine(with_statistics(nn.BatchNorm2d(3, affine=affine))) for affine in (True, False))
    assert len(list(trained.parameters())) == 2
    assert not list(fixed.parameters())
    assert len(list(fixed.buffers())) == 2


def test_fold_batch_norms_leaves_the_given_module_as_it_is():
    module = with_statistics(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fold_batch_norms(trace(module, torch.zeros(IMAGES)))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
