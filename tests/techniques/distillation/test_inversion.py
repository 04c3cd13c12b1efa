import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.models.mlp import mlp
from tasks.models.resnet import resnet
from tasks.techniques.distillation.inversion import (
    Inversion,
    norm_inputs,
    remembering_norms,
    statistics_distance,
    total_variation,
)

QUICK = Inversion(
    steps=50, batch_size=16, learning_rate=0.1, statistics_weight=1.0, variation_weight=1e-3, norm_weight=1e-4
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def norm_that_remembers(mean: list[float], variance: list[float]) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(mean)).double()
    layer.running_mean.copy_(torch.tensor(mean))
    layer.running_var.copy_(torch.tensor(variance))
    return layer.eval()


def test_statistics_distance_equals_the_value_worked_by_hand() -> None:
    # channel 0 holds 1, 3: mean 2, unbiased variance 2; channel 1 holds 0, 2: mean 1, variance 2
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0]], dtype=torch.float64)[:, :, None, None]
    layer = norm_that_remembers([1.0, 0.5], [5.0, 1.0])
    layer.eps = 0.0
    by_hand = (1 / 5 + 2 / 5 - 1 - math.log(2 / 5)) + (0.25 / 1 + 2 - 1 - math.log(2))
    assert statistics_distance(layer, features).item() == pytest.approx(by_hand / 2, rel=1e-14)


def test_statistics_distance_is_twice_the_divergence_of_the_two_gaussians() -> None:
    features, layer = drawn(8, 3, 4, 4), norm_that_remembers([0.1, -0.2, 0.3], [1.0, 2.0, 3.0])
    values_CN = features.transpose(0, 1).flatten(1)
    eps = layer.eps
    divergence_C = torch.distributions.kl_divergence(
        torch.distributions.Normal(values_CN.mean(1), (values_CN.var(1) + eps).sqrt()),
        torch.distributions.Normal(layer.running_mean, (layer.running_var + eps).sqrt()),
    )
    assert statistics_distance(layer, features).item() == pytest.approx(2 * divergence_C.mean().item(), rel=1e-12)


def test_statistics_distance_knows_no_scale_and_bears_a_channel_that_never_varied() -> None:
    features, layer = drawn(8, 2, 4, 4), norm_that_remembers([0.1, -0.2], [1.0, 2.0])
    scaled = norm_that_remembers([100.0, -200.0], [1e6, 2e6])
    expected = statistics_distance(layer, features).item()
    assert statistics_distance(scaled, 1000 * features).item() == pytest.approx(expected, rel=1e-4)
    still = norm_that_remembers([0.0, 0.0], [0.0, 0.0])
    assert statistics_distance(still, torch.zeros(8, 2, 4, 4, dtype=torch.float64)).item() == 0


def test_statistics_distance_is_zero_for_the_very_rows_that_the_norm_remembers() -> None:
    layer, features = nn.BatchNorm2d(3, momentum=None).double(), 2 * drawn(8, 3, 4, 4) + 1
    layer(features)
    assert statistics_distance(layer.eval(), features).item() == pytest.approx(0, abs=1e-24)


def test_priors_have_the_gradients_of_their_differences() -> None:
    layer = norm_that_remembers([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    x = drawn(4, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda features: statistics_distance(layer, features), (x,))
    assert torch.autograd.gradcheck(total_variation, (x,))


def test_total_variation_equals_its_formula_in_numpy_and_ignores_a_constant() -> None:
    images = drawn(2, 3, 4, 5)
    expected = np.square(np.diff(images.numpy(), axis=2)).mean() + np.square(np.diff(images.numpy(), axis=3)).mean()
    assert total_variation(images).item() == pytest.approx(expected, rel=1e-12)
    assert total_variation(images + 7).item() == pytest.approx(expected, rel=1e-9)
    assert total_variation(torch.ones(2, 1, 1, 1)).item() == 0


def test_synthesise_makes_rows_whose_statistics_are_those_that_a_table_network_remembers() -> None:
    module = mlp([3], 2, hidden=[4])
    rows = 5 * torch.randn(512, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([20.0, 0.0, -10.0])
    module.train()(rows)
    inversion = Inversion(
        steps=300, batch_size=64, learning_rate=0.5, statistics_weight=1e3, variation_weight=1.0, norm_weight=0.0
    )
    made, labels = inversion.synthesise(module.eval().requires_grad_(False), 64, (3,), 2, seed=0)
    torch.testing.assert_close(made.mean(dim=0), rows.mean(dim=0), rtol=0.02, atol=0.3)
    torch.testing.assert_close(made.std(dim=0), rows.std(dim=0), rtol=0.05, atol=0.0)
    assert labels.bincount().tolist() == [32, 32]


def test_synthesise_lowers_the_distance_is_repeatable_and_leaves_the_teacher_as_it_was() -> None:
    torch.manual_seed(0)
    module = resnet((1, 8, 8), 3, width=4, blocks=[1])
    module.train()(2 * torch.rand(64, 1, 8, 8))
    module.eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made, labels = QUICK.synthesise(module, 35, (1, 8, 8), 3, seed=1)
    again, _ = QUICK.synthesise(module, 35, (1, 8, 8), 3, seed=1)
    other, _ = QUICK.synthesise(module, 35, (1, 8, 8), 3, seed=2)
    assert made.shape == (35, 1, 8, 8)
    assert labels.bincount().tolist() == [12, 12, 11]
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in module.modules())

    def distance(rows: Tensor) -> float:
        layers = remembering_norms(module)
        with norm_inputs(layers) as seen:
            module(rows)
        return sum(statistics_distance(layer, seen[layer]).item() for layer in layers)

    assert distance(made) < 0.5 * distance(torch.randn(35, 1, 8, 8))


@pytest.mark.parametrize(
    "module", [nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2))]
)
def test_synthesise_refuses_a_teacher_that_remembers_no_statistics(module: nn.Module) -> None:
    with pytest.raises(TechniqueError, match="has no batch norm with running statistics"):
        QUICK.synthesise(module, 8, (3,), 2, seed=0)


def test_synthesise_says_when_the_rows_diverge() -> None:
    module = mlp([3], 2, hidden=[4]).eval().requires_grad_(False)
    module.get_buffer("1.running_mean").fill_(float("nan"))
    with pytest.raises(TechniqueError, match=r"diverged at synthesis learning rate 0\.1"):
        QUICK.synthesise(module, 8, (3,), 2, seed=0)
