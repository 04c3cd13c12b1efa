"""From the gradients of single weights to what the loss says of whole units.

Dimension legend: G units of a group, S batches, I inputs of a layer.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from tasks.techniques.pruning.coupling import Group, Member
from tasks.techniques.pruning.criteria import UnitGradients
from tasks.techniques.pruning.gradients import Gradients


def unit_gradients(
    module: nn.Module, groups: Sequence[Group], batches: Iterable[tuple[Gradients, int]]
) -> list[UnitGradients]:
    """Return what the loss says of the units of each group.

    Args:
        module: the network whose weights were differentiated.
        groups: groups of its channels.
        batches: what `batch_gradients` yields for it, at least one batch.
    """
    readers = [_readers(module, group) for group in groups]
    weights = [[_by_unit(module, member, _weight(module, member)) for member in group] for group in readers]
    slopes: list[list[Tensor]] = [[] for _ in groups]
    squares = [torch.zeros(group.num_units, dtype=torch.float64) for group in groups]
    for gradients, _ in batches:
        for index, members in enumerate(readers):
            products = [
                weight * _by_unit(module, member, gradients[f"{member.path}.weight".lstrip(".")])
                for member, weight in zip(members, weights[index], strict=True)
            ]
            slopes[index].append(sum((one.sum(dim=1) for one in products), torch.zeros_like(squares[index])))
            for one in products:
                squares[index] += one.square().sum(dim=1)
    return [UnitGradients(torch.stack(each), total / len(each)) for each, total in zip(slopes, squares, strict=True)]


def _readers(module: nn.Module, group: Group) -> list[Member]:
    """Return the layers that read the channels; a depthwise convolution only hands them on and is none."""
    producers = {member.path for member in group.producers}
    return [
        member
        for member in group.members
        if member.axis == "in"
        and not (member.path in producers and getattr(module.get_submodule(member.path), "groups", 1) > 1)
    ]


def _weight(module: nn.Module, member: Member) -> Tensor:
    weight = module.get_submodule(member.path).weight
    assert isinstance(weight, Tensor)
    return weight.detach().cpu().double()


def _by_unit(module: nn.Module, member: Member, tensor: Tensor) -> Tensor:
    """Return [G, n], the entries of a layer's weight [O, I / groups, ...] that read each unit."""
    num_groups = int(getattr(module.get_submodule(member.path), "groups", 1))
    by_group = tensor.reshape(num_groups, tensor.shape[0] // num_groups, tensor.shape[1], -1)
    by_input_I = by_group.transpose(1, 2).reshape(num_groups * tensor.shape[1], -1)
    return by_input_I[torch.from_numpy(member.channels)].flatten(1)
