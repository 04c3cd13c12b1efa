import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from tasks.models.parametrizations import without_parametrizations


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_without_parametrizations_leaves_the_values_and_the_original_when_a_deep_copy_is_made_plain():
    module = nn.Sequential(nn.Linear(2, 2))
    plain = module[0].weight.detach().clone()
    parametrize.register_parametrization(module[0], "weight", Doubled())
    result = without_parametrizations(copy.deepcopy(module))
    assert type(result[0]) is nn.Linear
    assert torch.equal(result[0].weight, 2 * plain)
    assert torch.equal(module[0].weight, 2 * plain)  # torch lets deep copies share a class, and removal changes it
    assert parametrize.is_parametrized(module[0])
