"""How wide each group becomes, and which of its units stay.

Widths are planned once, from the network as it came in. Every round moves on towards the same final
widths, so that rounding to a multiple happens once and does not add up over the rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.techniques.pruning.coupling import Channels, Group

Scores = npt.NDArray[np.float64]
Scope = Literal["global", "local"]

_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class WidthRules:
    """Which widths a group may end with."""

    scope: Scope
    """`local` takes the ratio of each group; `global` ranks the units of all groups against each other."""
    round_to: int
    """The layers' final widths are multiples of it, or what they were."""
    min_channels: int
    """No layer gets narrower than this, or than it was."""
    min_units: int = 2
    """With one channel left an axis would be broadcast instead of matched, and a grouped convolution depthwise."""


def final_widths(
    groups: Sequence[Group], scores: Sequence[Scores], rules: WidthRules, *, ratio: float, compares_layers: bool = False
) -> list[int]:
    """Return how many units each group ends with: the multiple nearest to what `ratio` asks for.

    A higher ratio never gives a wider group.

    Args:
        groups: the prunable groups of the network as it came in.
        scores: importance of the units of each group, [G].
        rules: which widths are allowed.
        ratio: share of the units to remove, before rounding.
        compares_layers: whether scores of different groups are in one unit. If not, a global ranking divides
            each by its group's mean, since weights of wide layers are smaller throughout.
    """
    steps = [_step(group, rules.round_to) for group in groups]
    floors = [_floor(group, step, rules) for group, step in zip(groups, steps, strict=True)]
    if rules.scope == "local":
        wanted = [(1 - ratio) * group.num_units for group in groups]
    else:
        relative = scores if compares_layers else [each / max(each.mean(), _TINY) for each in scores]
        wanted = _ranked_widths(relative, floors, ratio)
    return [
        _nearest(width, group.num_units, step, floor)
        for width, group, step, floor in zip(wanted, groups, steps, floors, strict=True)
    ]


def width_after(round_number: int, num_rounds: int, original: int, final: int) -> int:
    """Return the units left after a round (from 1): equal shares of the way, the last round takes the rest."""
    return original - (original - final) * round_number // num_rounds


def best_units(scores: Scores, num_kept: int) -> Channels:
    """Return the `num_kept` units with the highest scores, in rising order; of equals the first stay."""
    return np.sort(np.argsort(-scores, kind="stable")[:num_kept])


def _step(group: Group, round_to: int) -> int:
    """Units by which the group must change for every layer that makes its channels to keep a multiple of `round_to`."""
    per_unit: list[int] = [member.channels.shape[1] for member in group.producers]
    return math.lcm(*(round_to // math.gcd(round_to, channels) for channels in per_unit))


def _floor(group: Group, step: int, rules: WidthRules) -> int:
    """Fewest units that may be left: a multiple of `step`, or all if the group is narrower than that."""
    fewest_channels: int = min(member.channels.shape[1] for member in group.producers)
    fewest = max(rules.min_units, math.ceil(rules.min_channels / fewest_channels))
    return min(group.num_units, step * math.ceil(fewest / step))


def _nearest(wanted: float, original: int, step: int, floor: int) -> int:
    """Return the nearest to `wanted` of `original` and the multiples of `step` from `floor`; the wider of two."""
    below = step * math.floor(wanted / step)
    allowed = [width for width in (original, below + step, below, floor) if floor <= width <= original]
    return min(allowed, key=lambda width: abs(width - wanted))


def _ranked_widths(scores: Sequence[Scores], floors: Sequence[int], ratio: float) -> list[float]:
    """Remove the lowest units of all groups together, passing over groups that are at their floor."""
    widths = [len(group) for group in scores]
    to_remove = round(ratio * sum(widths))
    owners = np.repeat(np.arange(len(scores)), widths)
    for owner in owners[np.argsort(np.concatenate(scores), kind="stable")].tolist():
        if to_remove and widths[owner] > floors[owner]:
            widths[owner] -= 1
            to_remove -= 1
    return [float(width) for width in widths]
