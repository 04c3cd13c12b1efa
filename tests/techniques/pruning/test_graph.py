from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.coupling import Group, channels_to_keep
from tasks.techniques.pruning.graph import channel_groups

X = torch.zeros(2, 1, 8, 8)


def reasons(network: nn.Module, x: Tensor = X, ignore: tuple[str, ...] = ()) -> dict[str, str | None]:
    """Return, for each layer that makes channels, why they must stay; several reasons are joined."""
    found: dict[str, list[str | None]] = {}
    for group in channel_groups(network, x, ignore):
        for member in group.producers:
            found.setdefault(member.path, []).append(group.reason)
    return {path: each[0] if len(each) == 1 else str(sorted(map(str, each))) for path, each in found.items()}


def as_sets(keep: dict[str, dict[str, list[int]]], network: nn.Module) -> dict[tuple[str, str], set[int]]:
    """Turn what stays into what goes."""
    gone = {}
    for path, axes in keep.items():
        for axis, staying in axes.items():
            weight = network.get_submodule(path).get_parameter("weight")
            gone[path, axis] = set(range(weight.shape[1 if axis == "in" else 0])) - set(staying)
    return gone


def by_torch_pruning(network: nn.Module, path: str, channels: list[int]) -> dict[tuple[str, str], set[int]]:
    """Return what the library removes together with these output channels of a layer."""
    graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=X)
    layer = network.get_submodule(path)
    remove = (
        torch_pruning.prune_linear_out_channels
        if isinstance(layer, nn.Linear)
        else torch_pruning.prune_conv_out_channels
    )
    names = {module: name for name, module in network.named_modules()}
    gone: dict[tuple[str, str], set[int]] = {}
    for dependency, indices in graph.get_pruning_group(layer, remove, idxs=channels):
        target = dependency.target.module
        if target in names and hasattr(target, "weight"):
            axis = "in" if "in_channels" in dependency.handler.__name__ else "out"
            axis = "norm" if isinstance(target, nn.BatchNorm1d | nn.BatchNorm2d) else axis
            gone.setdefault((names[target], axis), set()).update(indices)
    return gone


@pytest.mark.parametrize("name", ["plain", "residual", "projected", "dense", "flattening", "mlp"])
def test_channel_groups_agree_with_torch_pruning(name: str, make_network: Callable[[str], nn.Module]) -> None:
    network = make_network(name).float()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    generator = np.random.default_rng(0)
    groups = channel_groups(network, X)
    prunable = [group for group in groups if group.reason is None]
    assert prunable
    for group in prunable:
        removed = np.sort(generator.permutation(group.num_units)[: group.num_units // 2])
        kept = np.setdiff1d(np.arange(group.num_units), removed)
        ours = as_sets(channels_to_keep(groups, {group.key: kept}), network)
        producer = group.producers[0]
        assert ours == by_torch_pruning(network, producer.path, producer.channels[removed].ravel().tolist())


def test_channel_groups_tie_the_layers_of_a_residual_stage_worked_by_hand(
    make_network: Callable[[str], nn.Module],
) -> None:
    groups = channel_groups(make_network("residual").float(), X)
    (stage,) = [group for group in groups if group.members[0].path == "stem.conv" and group.reason is None]
    assert [(member.path, member.axis) for member in stage.members if member.axis == "out"] == [
        ("stem.conv", "out"),
        ("stages.0.0.conv2", "out"),
        ("stages.0.1.conv2", "out"),
    ]
    assert {member.path for member in stage.members if member.axis == "in"} == {
        "stages.0.0.conv1",
        "stages.0.1.conv1",
        "head",
    }
    assert stage.num_units == 6
    assert all((member.channels == np.arange(6)[:, None]).all() for member in stage.members)


def test_channel_groups_map_a_channel_to_its_features_when_maps_are_flattened(
    make_network: Callable[[str], nn.Module],
) -> None:
    groups = channel_groups(make_network("flattening").float(), X)
    (group,) = [group for group in groups if group.members[0].path == "0" and group.members[0].axis == "out"]
    assert {member.path: member.channels[2].tolist() for member in group.members} == {
        "0": [2],
        "3": list(range(32, 48)),  # 4x4 positions of channel 2
    }


def test_channel_groups_offset_the_parts_of_a_concatenation(make_network: Callable[[str], nn.Module]) -> None:
    groups = channel_groups(make_network("dense").float(), X)
    (second,) = [group for group in groups if group.producers and group.producers[0].path == "conv1"]
    assert {(m.path, m.axis): m.channels[0].tolist() for m in second.members} == {
        ("conv1", "out"): [0],
        ("norm2", "norm"): [6],
        ("conv2", "in"): [6],
        ("norm3", "norm"): [6],
        ("head", "in"): [6],
    }


def test_channel_groups_hold_every_channel_of_every_axis_once(make_network: Callable[[str], nn.Module]) -> None:
    network = make_network("mixed").float()
    held: dict[tuple[str, str], list[int]] = {}
    for group in channel_groups(network, X):
        for member in group.members:
            held.setdefault((member.path, member.axis), []).extend(member.channels.ravel().tolist())
    widths = {(path, "out"): layer.weight.shape[0] for path, layer in network.named_children()}
    widths |= {(path, "in"): layer.weight.shape[1] for path, layer in network.named_children()}
    assert {place: sorted(channels) for place, channels in held.items()} == {
        place: list(range(width)) for place, width in widths.items()
    }


def test_channel_groups_leave_the_network_as_it_was(make_network: Callable[[str], nn.Module]) -> None:
    network = make_network("projected").float()
    network.stem.train()
    modes = [part.training for part in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    channel_groups(network, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_channel_groups_keep_inputs_outputs_and_ignored_layers_whole(make_network: Callable[[str], nn.Module]) -> None:
    assert reasons(make_network("plain").float()) == {"0": None, "3": None, "8": "output of the network"}
    assert reasons(make_network("plain").float(), ignore=("3",)) == {
        "0": None,
        "3": "3 is ignored",
        "8": "output of the network",
    }
    for group in channel_groups(make_network("plain").float(), X):
        assert ("0", "in") not in {
            (m.path, m.axis) for m in group.members
        } or group.reason == "comes from a fixed tensor"


def test_channel_groups_do_not_look_into_ignored_modules(make_network: Callable[[str], nn.Module]) -> None:
    found = reasons(make_network("residual").float(), ignore=("stages.0.1",))
    assert "stages.0.1.conv1" not in found
    assert found["stem.conv"] == "stages.0.1 is ignored"
    assert found["stages.0.0.conv1"] is None


def test_channel_groups_name_the_glob_when_it_matches_nothing(make_network: Callable[[str], nn.Module]) -> None:
    with pytest.raises(TechniqueError, match="ignore='stages\\.9\\.\\*' matches no module"):
        channel_groups(make_network("plain"), X, ("stages.9.*",))


class Hostile(nn.Module):
    """Two layers with an operation between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.between = between
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)
        self.offset = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.flag = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.between(self, self.first(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda net, x: torch.softmax(x, 1), "softmax normalises over the channels"),
        (lambda net, x: x.permute(1, 0, 2, 3).permute(1, 0, 2, 3), "permute puts the channels where the batch is"),
        (lambda net, x: x + x.mean(3, keepdim=True).transpose(1, 3).transpose(1, 2), "add meets channels on two axes"),
        (lambda net, x: x + net.offset, "add meets a fixed tensor with a value for each channel"),
        (lambda net, x: x - x.mean(1, keepdim=True), "mean is not limited to axes besides rows and channels"),
        (lambda net, x: torch.cat(x.chunk(3, 1), 1), "chunk cuts the channels unevenly"),
        (lambda net, x: torch.cat(x.split(4, 1), 1), "split cuts the channels at fixed places"),
        (lambda net, x: nn.functional.avg_pool2d(x.permute(0, 2, 3, 1), 1).permute(0, 3, 1, 2), "pools over"),
        (lambda net, x: x[:, [1, 0, 2, 3, 4, 5, 6, 7]], "getitem takes a part of a tensor"),
        (lambda net, x: nn.functional.layer_norm(x, (8, 8, 8)), "layer_norm has no rule"),
        (lambda net, x: torch.cat([x[:, 4:], x[:, :4]], 1), "getitem takes a part of a tensor"),
        (lambda net, x: x.reshape(2, 8, 64).reshape(2, 8, 8, 8), "fixes the number of channels"),
        (lambda net, x: x.reshape(-1, 8, 8, 8), "fixes the number of channels"),
        (lambda net, x: x.flatten(1).unflatten(1, (8, 8, 8)), "unflatten has no rule"),
        (lambda net, x: x * x.size(1), "computes with the number of channels"),
        (lambda net, x: nn.functional.pad(x, (0, 0, 0, 0, 1, -1)), "pad cuts or repeats channels"),
        (lambda net, x: nn.functional.conv2d(x, net.second.weight.new_ones(8, 8, 1, 1)), "conv2d has no rule"),
        (lambda net, x: x.squeeze(), "squeeze is not limited"),
    ],
)
def test_channel_groups_freeze_what_they_cannot_follow(between: Callable[..., Any], reason: str) -> None:
    found = reasons(Hostile(between))
    assert found["first"] is not None
    assert reason in found["first"]


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: x * net.flag + 1,
        lambda net, x: x.relu_().add(x, alpha=2),
        lambda net, x: x * torch.sigmoid(x.amax(dim=(2, 3), keepdim=True)),
        lambda net, x: x.reshape(x.shape[0], x.shape[1], -1).unsqueeze(-1).squeeze(3).unsqueeze(2),
        lambda net, x: x.view(x.size(0), -1, 64).view(x.size(0), -1, 8, 8),
        lambda net, x: nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2.0),
        lambda net, x: torch.cat([x, x], dim=2),
        lambda net, x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda net, x: torch.cat(x.split([3, 5], dim=2)[::-1], dim=2),
        lambda net, x: x.permute(0, 2, 3, 1)[:, 0, None].softmax(2).transpose(3, 1),
        lambda net, x: x.flatten(2).transpose(1, 2)[:, :, None].permute([0, 3, 1, 2]),
        lambda net, x: nn.functional.pad(x.flatten(0, 0)[..., 1:], (1, 0, 0, 0), mode="replicate"),
        lambda net, x: (x.permute(0, 2, 3, 1) + x.mean((2, 3))[:, None, None]).permute(0, 3, 1, 2),
        lambda net, x: nn.functional.dropout(x, 0.5, net.training).contiguous().to(torch.float32),
    ],
)
def test_channel_groups_follow_what_keeps_channels_apart(between: Callable[..., Any]) -> None:
    assert reasons(Hostile(between)) == {"first": None, "second": None, "head": "output of the network"}


def test_channel_groups_freeze_layers_that_share_a_parameter_or_lend_it() -> None:
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    tied[2].weight = tied[1].weight
    found = reasons(tied, torch.zeros(2, 8))
    assert found == {"0": "1 shares its parameters", "3": "output of the network"}
    lending = Hostile(lambda net, x: x * net.first.bias.mean())
    assert "first" not in reasons(lending)


def test_channel_groups_leave_layers_alone_when_they_are_more_than_torch_made_them() -> None:
    hooked, normalised = nn.Linear(8, 8), torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    hooked.register_forward_hook(lambda module, inputs, outputs: outputs.flip(1))
    for layer in (hooked, normalised):
        found = reasons(nn.Sequential(nn.Linear(8, 8), layer, nn.Linear(8, 3)), torch.zeros(2, 8))
        assert found == {"0": "1 has no rule", "2": "output of the network"}


class Stochastic(nn.Module):
    """Adds its auxiliary layer while training only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aside, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(x)
        return self.head(body + self.aside(x) if self.training else body)


def test_channel_groups_cover_the_ways_of_training_and_of_evaluation() -> None:
    (group,) = [group for group in channel_groups(Stochastic(), torch.zeros(2, 4)) if group.reason is None]
    assert {member.path for member in group.producers} == {"body", "aside"}


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_channel_groups_name_the_module_and_the_remedy_when_its_forward_branches_on_values() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), Branching()), nn.Linear(8, 8), nn.Linear(8, 3))
    x = torch.zeros(2, 8)
    with pytest.raises(TechniqueError, match=r"module '1\.1' \(Branching\) cannot be traced.*add '1\.1' to `ignore`"):
        channel_groups(network, x)
    assert reasons(network, x, ("1.1",)) == {"0": "1.1 is ignored", "2": None, "3": "output of the network"}
    with pytest.raises(TechniqueError, match="forward pass of Branching cannot be traced"):
        channel_groups(Branching(), x)


def prunable(groups: tuple[Group, ...]) -> int:
    return sum(group.reason is None for group in groups)


def test_channel_groups_keep_the_one_channel_that_is_broadcast(make_network: Callable[[str], nn.Module]) -> None:
    assert "broadcast" in str(reasons(make_network("mixed").float())["attention"])
    assert (
        prunable(channel_groups(make_network("mixed").float(), X)) == 2
    )  # left + both + shared, right + both + shared
