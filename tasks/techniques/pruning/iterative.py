"""Pruning in rounds: where the widths go, and one step of the way."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Surgery
from tasks.models.architecture import Network
from tasks.techniques.pruning.coupling import Group, GroupKey, channels_to_keep
from tasks.techniques.pruning.criteria import group_scores
from tasks.techniques.pruning.graph import channel_groups
from tasks.techniques.pruning.planning import Scope, best_units, final_widths, width_after
from tasks.techniques.pruning.surgery import keep_channels

_SURGERY = "tasks.techniques.pruning.surgery:keep_channels"


@dataclass(frozen=True)
class PruningPlan:
    """What every group of the incoming network is to become."""

    groups: tuple[Group, ...]
    """All groups of the incoming network, those that must stay whole too."""
    final: dict[GroupKey, int]
    """Units that each prunable group ends with."""

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups of which something may be removed."""
        return tuple(group for group in self.groups if group.reason is None)

    @property
    def share_removed(self) -> float:
        """Share of the units of all prunable groups that goes; differs from `ratio` by the rounding."""
        return 1 - sum(self.final.values()) / sum(group.num_units for group in self.prunable)

    def removed_text(self) -> str:
        """Return `conv1 32->24, conv2 (+2 tied) 64->48`: the layers' channels before and after."""
        return ", ".join(
            f"{_layers(group)} {group.num_units * size}->{self.final[group.key] * size}"
            for group in self.prunable
            if self.final[group.key] < group.num_units
            for size in [group.producers[0].channels.shape[1]]
        )

    def whole_text(self) -> str:
        """Return which layers make channels that must stay, and why."""
        return "; ".join(
            f"{_layers(group)}: {group.reason}" for group in self.groups if group.reason and group.producers
        )


def plan_pruning(
    module: nn.Module,
    example: Tensor,
    *,
    criterion: str,
    ratio: float,
    scope: Scope,
    round_to: int,
    min_channels: int,
    ignore: Sequence[str],
) -> PruningPlan:
    """Plan the final widths from the incoming network; see `final_widths` for the arguments.

    Raises:
        TechniqueError: the network cannot be traced, or nothing of it can be removed.
    """
    groups = channel_groups(module, example, ignore)
    prunable = [group for group in groups if group.reason is None]
    scores = [group_scores(module, group, criterion).numpy() for group in prunable]
    widths = (
        final_widths(prunable, scores, ratio=ratio, scope=scope, round_to=round_to, min_channels=min_channels)
        if prunable
        else []
    )
    plan = PruningPlan(groups, {group.key: width for group, width in zip(prunable, widths, strict=True)})
    if not plan.removed_text():
        found = ", ".join(f"{_layers(group)} {group.num_units}" for group in prunable) or "no layer that may shrink"
        raise TechniqueError(
            f"ratio={ratio:g} with round_to={round_to} and min_channels={min_channels} removes no channel from "
            f"{type(module).__name__} ({found}). Raise ratio, or lower round_to or min_channels. "
            f"What must stay: {plan.whole_text()}"
        )
    return plan


def prune_round(
    network: Network,
    example: Tensor,
    plan: PruningPlan,
    round_number: int,
    num_rounds: int,
    *,
    criterion: str,
    ignore: Sequence[str],
) -> Network:
    """Remove the units with the lowest scores until each group is as wide as the plan has it after this round.

    Scores are of the weights as they are now. `network.module` is changed in place.
    """
    original = {group.key: group.num_units for group in plan.prunable}
    groups = channel_groups(network.module, example, ignore)
    kept = {}
    for group in groups:
        if group.reason is None:
            width = width_after(round_number, num_rounds, original[group.key], plan.final[group.key])
            kept[group.key] = best_units(group_scores(network.module, group, criterion).numpy(), width)
    keep = channels_to_keep(groups, kept)
    module = keep_channels(network.module, keep)
    return network.with_surgery(Surgery(function=_SURGERY, arguments={"keep": keep}), module)


def multiply_adds(module: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of convolutions and matrix products for one row of `example` [B, *input_shape]."""
    was_training = module.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(example[:1])
    module.train(was_training)
    return int(counter.get_total_flops()) // 2


def num_parameters(module: nn.Module) -> int:
    """Count the trainable and frozen parameters; running statistics are none."""
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(group: Group) -> str:
    """Name the group by the first layer that makes its channels."""
    if not group.producers:
        return group.members[0].path
    tied = f" (+{len(group.producers) - 1} tied)" if len(group.producers) > 1 else ""
    return group.producers[0].path + tied
