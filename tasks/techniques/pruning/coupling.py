"""Which channels live and die together: a union-find over channels, and the groups that come out of it.

Every output channel of every layer is an *atom*. What happens on the way to the layers that read it
ties atoms together (a residual add) or freezes them (the network's output). Each class of tied atoms
is one prunable unit; classes that touch the same layers in the same way form a `Group`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Channels = npt.NDArray[np.int64]
Axis = Literal["out", "in", "norm"]
GroupKey = tuple[tuple[str, Axis, int], ...]
"""Layer, axis and channels per unit of each member: stays the same while the group gets narrower."""


@dataclass(frozen=True)
class Member:
    """One axis of one layer that shrinks with its group."""

    path: str
    axis: Axis
    """`out` and `in` of a convolution or linear layer; `norm` is the one axis of a batch norm."""
    channels: Channels
    """[G, m]: the m channels of this axis that go when unit g of the group goes."""


@dataclass(frozen=True)
class Group:
    """G interchangeable units, each a set of channels that only go together."""

    members: tuple[Member, ...]
    reason: str | None
    """Why nothing of the group may be removed; None where pruning is allowed."""

    @property
    def num_units(self) -> int:
        """G."""
        return len(self.members[0].channels)

    @property
    def key(self) -> GroupKey:
        """Identity of the group within its network."""
        return tuple((member.path, member.axis, member.channels.shape[1]) for member in self.members)

    @property
    def producers(self) -> tuple[Member, ...]:
        """The layers whose weights make these channels."""
        return tuple(member for member in self.members if member.axis == "out")


Places = dict[tuple[str, Axis], list[int]]


@dataclass
class Coupling:
    """Collects atoms, ties and layers while a network is followed from input to output."""

    _parents: list[int] = field(default_factory=list)
    _reasons: dict[int, str] = field(default_factory=dict)
    _layers: dict[tuple[str, Axis], Channels] = field(default_factory=dict)

    def new_channels(self, count: int) -> Channels:
        """Return `count` new atoms, tied to nothing."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def frozen_channels(self, count: int, reason: str) -> Channels:
        """Return `count` new atoms that must stay."""
        channels = self.new_channels(count)
        self.freeze(channels, reason)
        return channels

    def tie(self, left: Channels, right: Channels) -> None:
        """Make `left[i]` and `right[i]` live or die together."""
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            first, second = sorted((self._root(one), self._root(other)))
            self._parents[second] = first

    def freeze(self, channels: Channels, reason: str) -> None:
        """Keep these channels for ever; the first reason of a channel is the one that is told."""
        for channel in channels.tolist():
            self._reasons.setdefault(channel, reason)

    def bind(self, path: str, axis: Axis, channels: Channels) -> Channels:
        """Say which atoms the channels of a layer's axis are; return those it had before if it is called again."""
        known = self._layers.setdefault((path, axis), channels)
        if known is not channels:
            self.tie(known, channels)
        return known

    def groups(self) -> tuple[Group, ...]:
        """Return all groups; every channel of every bound axis is in exactly one."""
        reasons: dict[int, str] = {}
        for atom, reason in self._reasons.items():
            reasons.setdefault(self._root(atom), reason)
        alike: dict[tuple[str | None, GroupKey], list[Places]] = {}
        for root, places in self._places().items():
            key: GroupKey = tuple((path, axis, len(indices)) for (path, axis), indices in places.items())
            alike.setdefault((reasons.get(root), key), []).append(places)
        return tuple(_group(units, reason) for (reason, _), units in alike.items())

    def _places(self) -> dict[int, Places]:
        """Return, for each class of tied atoms, the channels of each axis that belong to it."""
        places: dict[int, Places] = {}
        for place, channels in self._layers.items():
            for index, channel in enumerate(channels.tolist()):
                places.setdefault(self._root(channel), {}).setdefault(place, []).append(index)
        return places

    def _root(self, atom: int) -> int:
        while self._parents[atom] != atom:
            self._parents[atom] = self._parents[self._parents[atom]]
            atom = self._parents[atom]
        return atom


def _group(units: Sequence[Places], reason: str | None) -> Group:
    members = (Member(path, axis, np.array([unit[path, axis] for unit in units])) for path, axis in units[0])
    return Group(tuple(members), reason)


def channels_to_keep(groups: Iterable[Group], kept: Mapping[GroupKey, Channels]) -> dict[str, dict[str, list[int]]]:
    """Translate kept units into the channels that each touched layer keeps: the argument of `keep_channels`.

    Args:
        groups: all groups of the network.
        kept: the units of each group that is to shrink; groups that are not named stay whole.
    """
    staying: dict[tuple[str, Axis], list[int]] = {}
    touched: set[tuple[str, Axis]] = set()
    for group in groups:
        shrinks = group.reason is None and group.key in kept
        units = kept[group.key] if shrinks else np.arange(group.num_units)
        for member in group.members:
            place = (member.path, member.axis)
            staying.setdefault(place, []).extend(member.channels[units].ravel().tolist())
            if len(units) < group.num_units:
                touched.add(place)
    keep: dict[str, dict[str, list[int]]] = {}
    for path, axis in sorted(touched):
        keep.setdefault(path, {})[axis] = sorted(staying[path, axis])
    return keep
