"""Pruning in rounds: where the widths go, and one step of the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.coupling import Channels, Group, GroupKey
from tasks.techniques.pruning.planning import Scores, WidthRules, best_units, final_widths, width_after
from tasks.techniques.pruning.scoring import Scorer

FindGroups = Callable[[nn.Module], tuple[Group, ...]]
"""Finds the groups of a network, prunable or not; the same before and after a round."""


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
        return prunable(self.groups)

    @property
    def share_removed(self) -> float:
        """Share of the units of all prunable groups that goes; differs from `ratio` by the rounding."""
        return 1 - sum(self.final.values()) / sum(group.num_units for group in self.prunable)

    def removed_text(self) -> str:
        """Return `conv1 32->24, conv2 (+2 tied) 64->48`: the layers' channels before and after."""
        return ", ".join(
            f"{named(group)} {group.num_units * size}->{self.final[group.key] * size}"
            for group in self.prunable
            if self.final[group.key] < group.num_units
            for size in [group.producers[0].channels.shape[1]]
        )

    def whole_text(self) -> str:
        """Return which layers make channels that must stay, and why."""
        return "; ".join(f"{named(group)}: {group.reason}" for group in self.groups if group.reason and group.producers)


@dataclass(frozen=True)
class Planner:
    """The groups of an incoming network, judged once: plans for any ratio come from the same scores."""

    module: nn.Module
    groups: tuple[Group, ...]
    scores: list[Scores]
    """Of each prunable group."""
    rules: WidthRules
    compares_layers: bool

    @classmethod
    def judge(cls, module: nn.Module, find: FindGroups, scorer: Scorer, rules: WidthRules) -> "Planner":
        """Find and score the groups of a network.

        Raises:
            TechniqueError: the network cannot be traced, nothing of it may shrink, or the criterion has nothing
                to judge by.
        """
        groups = find(module)
        if not prunable(groups):
            whole = PruningPlan(groups, {}).whole_text()
            raise TechniqueError(f"{type(module).__name__} has no layer that may shrink. What must stay: {whole}")
        return cls(module, groups, scorer.scores(module, prunable(groups)), rules, scorer.compares_layers)

    def plan(self, ratio: float) -> PruningPlan:
        """Return the final widths for a share of the units, which may be those that the network has."""
        groups = prunable(self.groups)
        widths = final_widths(groups, self.scores, self.rules, ratio=ratio, compares_layers=self.compares_layers)
        return PruningPlan(self.groups, {group.key: width for group, width in zip(groups, widths, strict=True)})

    def kept_by(self, plan: PruningPlan) -> dict[GroupKey, Channels]:
        """Return the units that stay if all goes in one step."""
        scored = zip(prunable(self.groups), self.scores, strict=True)
        return {group.key: best_units(scores, plan.final[group.key]) for group, scores in scored}


def prunable(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups of which something may be removed."""
    return tuple(group for group in groups if group.reason is None)


def named(group: Group) -> str:
    """Name the group by the first layer that makes its channels."""
    if not group.producers:
        return group.members[0].path
    tied = f" (+{len(group.producers) - 1} tied)" if len(group.producers) > 1 else ""
    return group.producers[0].path + tied


def kept_after_round(
    module: nn.Module, plan: PruningPlan, find: FindGroups, scorer: Scorer, number: int, num_rounds: int
) -> tuple[tuple[Group, ...], dict[GroupKey, Channels]]:
    """Return the groups as they are, and the units that stay in round `number` (from 1).

    The units with the lowest scores go, until each group is as wide as the plan has it after this round.
    Scores are of the weights as they are now.
    """
    original = {group.key: group.num_units for group in plan.prunable}
    groups = find(module)
    kept = {
        group.key: best_units(scores, width_after(number, num_rounds, original[group.key], plan.final[group.key]))
        for group, scores in zip(prunable(groups), scorer.scores(module, prunable(groups)), strict=True)
    }
    return groups, kept
