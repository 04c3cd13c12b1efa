"""One operation of a traced network, and what is known of the channels of its inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from tasks.techniques.pruning.coupling import Channels, Coupling


class CannotFollow(Exception):  # noqa: N818 - a turn of the road, not an error
    """Where the channels of an operation's inputs go is not known."""


@dataclass(frozen=True)
class ChannelAxis:
    """The channels of a tensor. One axis of a tensor is followed at most; the others keep their sizes."""

    channels: Channels
    axis: int
    """Counted from 0; never 0 itself, which is the batch."""


@dataclass(frozen=True)
class Parts:
    """The pieces that a tensor was cut into."""

    pieces: tuple[ChannelAxis, ...]


@dataclass(frozen=True)
class ShapeOf:
    """The shape of a tensor with these channels, as the forward pass computes with it."""

    source: ChannelAxis


@dataclass(frozen=True)
class CountOf:
    """The number of these channels, as the forward pass computes with it."""

    source: ChannelAxis


Followed = ChannelAxis | Parts | ShapeOf | CountOf | None
"""What is known of a value; None for what has no prunable channel."""


def channels_in(followed: Followed) -> tuple[Channels, ...]:
    """Return all channels that the value carries or counts."""
    if followed is None:
        return ()
    if isinstance(followed, Parts):
        return tuple(piece.channels for piece in followed.pieces)
    return (followed.channels if isinstance(followed, ChannelAxis) else followed.source.channels,)


@dataclass(frozen=True)
class Call:
    """One operation of the traced network, as it ran on the example."""

    node: fx.Node
    result: Any
    values: Mapping[fx.Node, Any]
    """What the inputs were."""
    followed: Mapping[fx.Node, Followed]
    coupling: Coupling

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument as it stands in the graph: a node or a constant."""
        if position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def source(self) -> tuple[Tensor, ChannelAxis]:
        """Return the first argument, a tensor whose channels are followed."""
        node = self.argument(0, "input")
        followed = self.followed[node] if isinstance(node, fx.Node) else None
        if not isinstance(followed, ChannelAxis):
            raise CannotFollow("is used in an unknown way")
        return self.values[node], followed

    def arriving(self, axis: int) -> Channels:
        """Return the channels on this axis of the first argument, frozen ones if it is a fixed tensor."""
        return self.channels_of(self.argument(0, "input"), axis)

    def channels_of(self, node: fx.Node, axis: int) -> Channels:
        """Return the channels on this axis of an input, frozen ones if it is a fixed tensor."""
        followed = self.followed[node]
        axis %= self.values[node].ndim
        if followed is None:
            return self.coupling.frozen_channels(self.values[node].shape[axis], "comes from a fixed tensor")
        if not isinstance(followed, ChannelAxis):
            raise CannotFollow("is used in an unknown way")
        if followed.axis != axis:
            raise CannotFollow("takes its channels from another axis")
        return followed.channels

    def tensor_result(self) -> Tensor:
        """Return the result, which must be a tensor with an axis 1."""
        if not isinstance(self.result, Tensor) or self.result.ndim < 2:
            raise CannotFollow("gives no tensor with channels")
        return self.result


Rule = Callable[[Call], Followed]
"""What an operation does to the channels; it may tie and freeze them.

Raises `CannotFollow` for a use that it does not cover, with the rest of a sentence that starts with
the operation's name.
"""
