"""One operation of a traced network, and what is known of the channels of its inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from tasks.techniques.pruning.coupling import Channels, Coupling


class CannotFollow(Exception):  # noqa: N818 - a turn of the road, not an error
    """Where the channels of an operation's inputs go is not known."""


@dataclass(frozen=True)
class ShapeOf:
    """The shape of a tensor with these channels, as the forward pass computes with it."""

    channels: Channels


@dataclass(frozen=True)
class CountOf:
    """The number of these channels, as the forward pass computes with it."""

    channels: Channels


Followed = Channels | ShapeOf | CountOf | None
"""What is known of a value: the channels on axis 1 of a tensor, or None for what has no prunable channel."""


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

    def source(self) -> tuple[Tensor, Channels]:
        """Return the first argument, a tensor whose channels are followed."""
        node = self.argument(0, "input")
        channels = self.followed[node] if isinstance(node, fx.Node) else None
        if not isinstance(channels, np.ndarray):
            raise CannotFollow("is used in an unknown way")
        return self.values[node], channels

    def arriving(self) -> Channels:
        """Return the channels of the first argument, frozen ones if it is a fixed tensor."""
        return self.channels_of(self.argument(0, "input"))

    def channels_of(self, node: fx.Node) -> Channels:
        """Return the channels of an input, frozen ones if it is a fixed tensor."""
        channels = self.followed[node]
        if isinstance(channels, np.ndarray):
            return channels
        return self.coupling.frozen_channels(self.values[node].shape[1], "comes from a fixed tensor")

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
