import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tasks.contracts.errors import ModelError
from tasks.techniques.pruning.coupling import channels_to_keep
from tasks.techniques.pruning.graph import channel_groups
from tasks.techniques.pruning.surgery import keep_channels

STRUCTURES = [
    "plain",
    "residual",
    "projected",
    "dense",
    "depthwise",
    "grouped",
    "flattening",
    "mlp",
    "excited",
    "mixed",
    "group_normed",
    "gated",
    "padded",
    "mobilenet",
    "vit",
]


def examples() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STRUCTURES)
def test_keep_channels_gives_the_outputs_of_the_masked_network(
    name: str, seed: int, make_network: Callable[[str], nn.Module], mask_units: Callable[..., nn.Module]
) -> None:
    network, x = make_network(name), examples()
    generator = np.random.default_rng(seed)
    groups = channel_groups(network, x)
    kept = {
        group.key: np.sort(generator.permutation(group.num_units)[: generator.integers(1, group.num_units)])
        for group in groups
        if group.reason is None and group.num_units > 1
    }
    if name == "excited":  # sigmoid(0) is not 0: only the channels that it scales are silent when masked
        kept = {key: units for key, units in kept.items() if any(path == "body.0" for path, _, _ in key)}
    assert kept
    expected = mask_units(network, groups, kept)(x)
    pruned = keep_channels(copy.deepcopy(network), json.loads(json.dumps(channels_to_keep(groups, kept))))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in network.parameters())
    torch.testing.assert_close(pruned(x), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(expected, network(x))


def test_keep_channels_selects_rows_columns_and_statistics() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    layers[0].weight.data = torch.arange(12.0).reshape(4, 3)
    layers[0].bias.data = torch.arange(4.0)
    layers[1].running_mean = torch.arange(4.0)
    layers[1].running_var = torch.arange(4.0) + 10
    layers[2].weight.data = torch.arange(8.0).reshape(2, 4)
    layers[2].weight.requires_grad_(False)
    pruned = keep_channels(layers, {"0": {"out": [1, 3], "in": [0, 2]}, "1": {"norm": [1, 3]}, "2": {"in": [1, 3]}})
    assert pruned is layers
    assert layers[0].weight.tolist() == [[3, 5], [9, 11]]
    assert layers[0].bias.tolist() == [1, 3]
    assert (layers[0].in_features, layers[0].out_features, layers[1].num_features) == (2, 2, 2)
    assert layers[1].running_mean.tolist() == [1, 3]
    assert layers[1].running_var.tolist() == [11, 13]
    assert layers[2].weight.tolist() == [[1, 3], [5, 7]]
    assert layers[0].weight.requires_grad
    assert not layers[2].weight.requires_grad


def test_keep_channels_drops_whole_groups_and_positions_in_groups() -> None:
    layer = nn.Conv1d(6, 6, 1, groups=3, bias=False)  # two inputs and two outputs in each group
    layer.weight.data = torch.arange(12.0).reshape(6, 2, 1)
    keep_channels(layer, {"": {"in": [2, 4], "out": [2, 3, 4, 5]}})
    assert (layer.groups, layer.in_channels, layer.out_channels) == (2, 2, 4)
    assert layer.weight.flatten().tolist() == [4, 6, 8, 10]
    assert layer(torch.ones(1, 2, 3)).shape == (1, 4, 3)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"9": {"out": [0]}}, "no layer '9'"),
        ({"0": {"out": [0, 4]}}, "channels 0 to 3"),
        ({"0": {"out": [-1, 0]}}, "channels 0 to 3"),
        ({"0": {"out": [1, 0]}}, "rising order"),
        ({"0": {"out": []}}, "rising order"),
        ({"0": {"norm": [0]}}, r"no axis \['norm'\]"),
        ({"0": {"depth": [0]}}, "malformed"),
        ({"0": {"out": ["0"]}}, "malformed"),
        ({"0": [0]}, "malformed"),
        ([], "malformed"),
        ({"1": {"out": [0]}}, "cannot change '1', a ReLU"),
        ({"2": {"in": [0, 1, 2], "out": [0, 1]}}, "equally many"),
        ({"2": {"in": [0, 1], "out": [2, 3]}}, "equally many"),
    ],
)
def test_keep_channels_names_what_is_wrong_when_the_recipe_does_not_fit(keep: Any, message: str) -> None:
    layers = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(ModelError, match=message):
        keep_channels(layers, keep)
