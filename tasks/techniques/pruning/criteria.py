"""How much each unit of a group contributes. A criterion sees tensors only and knows nothing of graphs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.coupling import Group


@dataclass(frozen=True)
class GroupTensors:
    """What belongs to the G units of a group, one tensor for each layer. Criteria to come add what they need."""

    weights: tuple[Tensor, ...]
    """[G, n], the n weights of a layer that make each unit."""
    norm_scales: tuple[Tensor, ...]
    """[G, m], the scales of an affine batch norm that each unit passes."""


Importance = Callable[[GroupTensors], Tensor]
"""From the tensors of a group to the scores [G] of its units; the lowest go first."""


def l1(tensors: GroupTensors) -> Tensor:
    """Mean absolute weight over all layers that make the unit (Li et al. 2017, arXiv:1608.08710)."""
    return torch.cat(tensors.weights, dim=1).abs().mean(dim=1)


def l2(tensors: GroupTensors) -> Tensor:
    """Root of the mean squared weight over all layers that make the unit."""
    return torch.cat(tensors.weights, dim=1).square().mean(dim=1).sqrt()


def bn_scale(tensors: GroupTensors) -> Tensor:
    """Mean absolute scale of the batch norms that the unit passes (Liu et al. 2017, arXiv:1708.06519)."""
    return torch.cat(tensors.norm_scales, dim=1).abs().mean(dim=1)


CRITERIA: dict[str, Importance] = {"l1": l1, "l2": l2, "bn_scale": bn_scale}


def group_scores(module: nn.Module, group: Group, criterion: str) -> Tensor:
    """Return the scores [G] of a group's units, float64 on the CPU.

    Raises:
        TechniqueError: the criterion is `bn_scale` and no affine batch norm follows the layer.
    """
    tensors = group_tensors(module, group)
    if criterion == "bn_scale" and not tensors.norm_scales:
        raise TechniqueError(
            f"criterion='bn_scale' needs an affine batch norm after {group.producers[0].path!r}, which has none; "
            "set criterion to 'l2', or add the layer to `ignore`"
        )
    return CRITERIA[criterion](tensors)


def group_tensors(module: nn.Module, group: Group) -> GroupTensors:
    """Gather the tensors of a group from its network."""
    weights: list[Tensor] = []
    norm_scales: list[Tensor] = []
    for member in group.members:
        weight = module.get_submodule(member.path).weight
        if member.axis == "in" or weight is None:
            continue
        assert isinstance(weight, Tensor)
        of_units = weight.detach().cpu().double()[torch.from_numpy(member.channels)].flatten(1)
        (weights if member.axis == "out" else norm_scales).append(of_units)
    return GroupTensors(tuple(weights), tuple(norm_scales))
