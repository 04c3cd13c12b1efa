"""Pruning of a network's units, channels or heads, in rounds, towards the widths that a goal asks for."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Surgery
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.pruning.coupling import Channels, Group, GroupKey, channels_to_keep
from tasks.techniques.pruning.goals import Goal, smallest_ratio
from tasks.techniques.pruning.iterative import FindGroups, Planner, PruningPlan, kept_after_round, named, prunable
from tasks.techniques.pruning.masks import require_two_four, two_four_layers
from tasks.techniques.pruning.measures import latency_reduction, multiply_adds, num_parameters
from tasks.techniques.pruning.planning import WidthRules
from tasks.techniques.pruning.scoring import Scorer
from tasks.techniques.pruning.surgery import keep_channels
from tasks.techniques.rounds import Round
from tasks.techniques.technique import StageContext

Kept = Mapping[GroupKey, Channels]
Narrow = Callable[[Network, tuple[Group, ...], Kept], Network]
"""Makes a network, which it may change in place, lose all units but the kept ones of the named groups."""


@dataclass(frozen=True, kw_only=True)
class UnitPruning:
    """How units are found, judged and removed."""

    find: FindGroups
    scorer: Scorer
    rules: WidthRules
    narrow: Narrow
    num_rounds: int
    unit: str
    """What a unit is called."""
    limits: Mapping[str, int]
    """The fields of the spec that keep groups from getting narrower, and their values, for the error message."""

    def planned(
        self, incoming: Network, goal: Goal, example: Tensor, context: StageContext, interrupted: Round | None
    ) -> tuple[PruningPlan, Mapping[str, float]]:
        """Return where the widths go, and the facts that an interrupted stage needs to plan the same again.

        Raises:
            TechniqueError: nothing can be removed, or the goal is out of reach.
        """
        planner = Planner.judge(incoming.module, self.find, self.scorer, self.rules)
        if goal.measure == "units":
            return self._plan_at(planner, goal.share, goal), {}
        prefix = "measured_" if goal.measure == "latency" else ""
        names = (f"{prefix}ratio", f"{prefix}{goal.measure}_reduction")
        if interrupted is not None:
            ratio, reduction = (float(interrupted.facts[name]) for name in names)
        else:
            reached = smallest_ratio(goal, self._reduction(planner, incoming, _cost(goal, incoming, example, context)))
            ratio, reduction = reached.ratio, reached.reduction
        return self._plan_at(planner, ratio, goal), dict(zip(names, (ratio, reduction), strict=True))

    def round(
        self, plan: PruningPlan, facts: Mapping[str, float], network: Network, number: int
    ) -> tuple[Network, Mapping[str, float]]:
        """Remove the units of one round; `network.module` is changed in place.

        Raises:
            TechniqueError: a layer would lose its 2:4 sparsity.
        """
        groups, kept = kept_after_round(network.module, plan, self.find, self.scorer, number, self.num_rounds)
        two_four = two_four_layers(network.module)
        narrower = self.narrow(network, groups, kept)
        require_two_four(narrower.module, two_four)
        return narrower, facts

    def _plan_at(self, planner: Planner, ratio: float, goal: Goal) -> PruningPlan:
        plan = planner.plan(ratio)
        if not plan.removed_text():
            found = ", ".join(f"{named(group)} {group.num_units}" for group in plan.prunable)
            given = " and ".join(f"{name}={value}" for name, value in self.limits.items())
            raise TechniqueError(
                f"{goal.field}={goal.share:g} with {given} removes no {self.unit} from "
                f"{type(planner.module).__name__} ({found}). Raise {goal.field}, or lower {' or '.join(self.limits)}. "
                f"What must stay: {plan.whole_text() or 'nothing'}"
            )
        return plan

    def _reduction(
        self, planner: Planner, incoming: Network, share_gone: Callable[[Network], float]
    ) -> Callable[[float], float]:
        """Return the function from a ratio to the share that is gone; equal widths are measured once."""
        incoming_widths = tuple(group.num_units for group in prunable(planner.groups))
        known: dict[tuple[int, ...], float] = {incoming_widths: 0.0}  # not timed: noise must not reach a goal

        def reduction(ratio: float) -> float:
            plan = planner.plan(ratio)
            widths = tuple(plan.final.values())
            if widths not in known:
                spare = replace(incoming, module=copy.deepcopy(incoming.module))
                known[widths] = share_gone(self.narrow(spare, planner.groups, planner.kept_by(plan)))
            return known[widths]

        return reduction


def _cost(goal: Goal, incoming: Network, example: Tensor, context: StageContext) -> Callable[[Network], float]:
    """Return the function from a narrower network to the share of the goal's measure that it saves."""
    if goal.measure == "latency":
        rows = context.load_split("calibration")
        exported = to_onnx(incoming, context.input_shape, str(rows.x.dtype))
        return lambda network: latency_reduction(exported, network, rows, context.seed)
    count = num_parameters if goal.measure == "parameters" else partial(multiply_adds, example=example)
    before = count(incoming.module)
    return lambda network: 1 - count(network.module) / before


def narrow_channels(network: Network, groups: tuple[Group, ...], kept: Kept) -> Network:
    """Remove the channels of all units that are not kept."""
    keep = channels_to_keep(groups, kept)
    operation = Surgery(function="tasks.techniques.pruning.surgery:keep_channels", arguments={"keep": keep})
    return network.with_surgery(operation, keep_channels(network.module, keep))
