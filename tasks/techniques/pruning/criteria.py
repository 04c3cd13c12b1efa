"""How much each unit of a group contributes. A criterion sees tensors only and knows nothing of graphs.

Dimension legend: G units of a group, S batches of rows that gradients were taken of.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.coupling import Group


@dataclass(frozen=True)
class GroupTensors:
    """What belongs to the G units of a group, one tensor for each layer; float64 on the CPU."""

    weights: tuple[Tensor, ...]
    """[G, n], the n weights of a layer that make each unit."""
    norm_scales: tuple[Tensor, ...]
    """[G, m], the scales of an affine norm that each unit passes."""


@dataclass(frozen=True)
class UnitGradients:
    """What the loss says of the G units of a group, from the weights w that read them and their gradients g.

    All that a unit does, it does through the weights that read it; the sum of w g over them is the
    gradient by a gate on the unit (Molchanov et al. 2019), whatever norm or activation comes before.
    """

    slopes: Tensor
    """[S, G], the sum of w g over the weights that read a unit, for each batch."""
    curvatures: Tensor
    """[G], the sum of w^2 F over the weights that read a unit; F is the mean of g^2 over the batches."""


Importance = Callable[[GroupTensors], Tensor]
"""From the tensors of a group to the scores [G] of its units; the lowest go first."""


def l1(tensors: GroupTensors) -> Tensor:
    """Mean absolute weight over all layers that make the unit (Li et al. 2017, arXiv:1608.08710)."""
    return torch.cat(tensors.weights, dim=1).abs().mean(dim=1)


def l2(tensors: GroupTensors) -> Tensor:
    """Root of the mean squared weight over all layers that make the unit."""
    return torch.cat(tensors.weights, dim=1).square().mean(dim=1).sqrt()


def bn_scale(tensors: GroupTensors) -> Tensor:
    """Mean absolute scale of the norms that the unit passes (Liu et al. 2017, arXiv:1708.06519)."""
    return torch.cat(tensors.norm_scales, dim=1).abs().mean(dim=1)


def taylor(gradients: UnitGradients) -> Tensor:
    """(sum of w g)^2, the mean over the batches (Molchanov et al. 2019, arXiv:1906.10771, equation 8).

    It is the squared first-order change of the loss when the unit is taken away.
    """
    return gradients.slopes.square().mean(dim=0)


def hessian(gradients: UnitGradients) -> Tensor:
    """Half the sum of F w^2, the second-order rise of the loss (LeCun et al. 1990, Optimal Brain Damage).

    The empirical Fisher information F stands for the Hessian's diagonal (Theis et al. 2018, arXiv:1801.05787).
    """
    return gradients.curvatures / 2


CRITERIA: dict[str, Importance] = {"l1": l1, "l2": l2, "bn_scale": bn_scale}
"""Those that look at the weights alone."""
GRADIENT_CRITERIA: dict[str, Callable[[UnitGradients], Tensor]] = {"taylor": taylor, "hessian": hessian}
"""Those that need rows and a loss. Their scores are in units of the loss and compare across layers."""


def group_scores(module: nn.Module, group: Group, criterion: str) -> Tensor:
    """Return the scores [G] of a group's units by a criterion of `CRITERIA`, float64 on the CPU.

    Raises:
        TechniqueError: the criterion is `bn_scale` and no affine norm follows the layer.
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
