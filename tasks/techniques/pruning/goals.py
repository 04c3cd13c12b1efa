"""How far to prune: a share of the units, or as little as reaches a goal for the whole network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tasks.contracts.errors import TechniqueError

Measure = Literal["units", "flops", "parameters", "latency"]

GOAL_FIELDS: dict[Measure, str] = {
    "units": "ratio",
    "flops": "flops_reduction",
    "parameters": "parameters_reduction",
    "latency": "latency_reduction",
}
_STEPS: dict[Measure, int] = {"units": 0, "flops": 10, "parameters": 10, "latency": 6}
"""Halvings of the range of ratios. Timing costs an export each, and differs by more than finer steps do."""


@dataclass(frozen=True)
class Goal:
    """What to take away, and how much of it."""

    measure: Measure
    share: float
    """In (0, 1): of the units, of the multiply-adds, of the parameters, or of the time for one row."""

    @property
    def field(self) -> str:
        """Name of the spec's field that sets it."""
        return GOAL_FIELDS[self.measure]


@dataclass(frozen=True)
class Reached:
    """The ratio that a goal comes to."""

    ratio: float
    """Share of the units to remove, before rounding."""
    reduction: float
    """Share of the goal's measure that is then gone."""


def smallest_ratio(goal: Goal, reduction_at: Callable[[float], float]) -> Reached:
    """Find by bisection the smallest ratio that reaches the goal.

    Args:
        goal: any but a share of the units, which is the ratio itself.
        reduction_at: share of the goal's measure that is gone at a ratio; it must not fall when the ratio rises.
            Of a timed one, which may, some ratio is found that reaches the goal where a smaller one did not.

    Raises:
        TechniqueError: the goal is out of reach.
    """
    low, high = 0.0, 1.0
    reached = reduction_at(high)
    if reached < goal.share:
        raise TechniqueError(
            f"{goal.field}={goal.share:g} is out of reach: with every layer at its narrowest "
            f"{reached:.1%} is gone. Ask for less, lower min_channels or round_to, or ignore fewer layers"
        )
    for _ in range(_STEPS[goal.measure]):
        middle = (low + high) / 2
        reduction = reduction_at(middle)
        if reduction >= goal.share:
            high, reached = middle, reduction
        else:
            low = middle
    return Reached(high, reached)
