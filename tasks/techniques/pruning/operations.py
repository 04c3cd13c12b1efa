"""What functions and tensor methods do to the channels on axis 1. Channels are followed on that axis only."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from tasks.techniques.pruning.calls import Call, CannotFollow, CountOf, Followed, Rule, ShapeOf
from tasks.techniques.pruning.coupling import Channels


def elementwise(call: Call) -> Channels:
    """Tie the channels of all inputs; what is broadcast over the channels must stay as it is."""
    result = call.tensor_result()
    arrived: list[Channels] = []
    for node in call.node.all_input_nodes:
        value, channels = call.values[node], call.followed[node]
        if isinstance(channels, ShapeOf | CountOf):
            raise CannotFollow("computes with the number of channels")
        if channels is None:
            _require_same_for_all_channels(value, result)
        elif value.ndim != result.ndim:
            raise CannotFollow("moves the channels to another axis")
        elif value.shape[1] == result.shape[1]:
            arrived.append(channels)
        else:
            call.coupling.freeze(channels, f"is broadcast over other channels by {call.node.name}")
    if not arrived:
        raise CannotFollow("broadcasts one channel to many")
    for channels in arrived[1:]:
        call.coupling.tie(arrived[0], channels)
    return arrived[0]


def _require_same_for_all_channels(value: Any, result: Tensor) -> None:
    """Check that a fixed value fits any number of channels."""
    if isinstance(value, Tensor):
        axis = 1 - (result.ndim - value.ndim)
        if axis >= 0 and value.shape[axis] != 1:
            raise CannotFollow("meets a fixed tensor with a value for each channel")


def per_channel(call: Call) -> Channels:
    """Each channel of the result comes from the same channel of the only input."""
    tensor, channels = call.source()
    if call.tensor_result().shape[:2] != tensor.shape[:2]:
        raise CannotFollow("changes the number of channels")
    return channels


def pooling(num_spatial: int) -> Rule:
    """Return the rule of a pooling over `num_spatial` axes; with fewer axes torch takes axis 0 for the channels."""

    def rule(call: Call) -> Channels:
        if call.source()[0].ndim != num_spatial + 2:
            raise CannotFollow("pools over the channels")
        return per_channel(call)

    return rule


def flattening(call: Call, start: int, end: int) -> Channels:
    """Axes `start` to `end` become one; a channel becomes as many features as it has positions."""
    tensor, channels = call.source()
    start, end = start % tensor.ndim, end % tensor.ndim
    if start == 0:
        raise CannotFollow("joins the channels with the batch")
    return channels if start > 1 else np.repeat(channels, math.prod(tensor.shape[2 : end + 1]))


def _flatten(call: Call) -> Channels:
    return flattening(call, call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1))


def _reshape(call: Call) -> Channels:
    """Follow the reshapes that still fit when channels are gone: axis 1 is -1, or computed from the channels."""
    tensor, channels = call.source()
    result = call.tensor_result()
    given = call.node.args[1:]
    sizes = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
    counts = [call.followed[size] if isinstance(size, fx.Node) else None for size in sizes]
    if len(sizes) < 2 or any(count is not None for position, count in enumerate(counts) if position != 1):
        raise CannotFollow("computes a size from the number of channels")
    if result.shape[0] != tensor.shape[0]:
        raise CannotFollow("joins the channels with the batch")
    if isinstance(counts[1], CountOf) and result.shape[1] == tensor.shape[1]:
        call.coupling.tie(counts[1].channels, channels)
        return channels
    if sizes[1] == -1 and result.shape[1] == tensor.shape[1]:
        return channels
    if sizes[1] == -1 and result.ndim == 2:
        return np.repeat(channels, math.prod(tensor.shape[2:]))
    raise CannotFollow("fixes the number of channels or features; write -1 there")


def _reduction(call: Call) -> Channels:
    """Reduce over positions, never over rows or channels."""
    return _beyond_channels(call, call.source()[0].ndim)


def _squeeze(call: Call) -> Channels:
    return _beyond_channels(call, call.source()[0].ndim)


def _unsqueeze(call: Call) -> Channels:
    return _beyond_channels(call, call.source()[0].ndim + 1)


def _beyond_channels(call: Call, num_axes: int) -> Channels:
    """Follow what happens on the axes `dim` only, all of which must come after the channels."""
    call.tensor_result()
    axes = call.argument(1, "dim")
    axes = (axes,) if isinstance(axes, int) else axes
    if not isinstance(axes, tuple | list) or any(axis % num_axes < 2 for axis in axes):
        raise CannotFollow("is not limited to the axes after the channels")
    return call.source()[1]


def _concatenate(call: Call) -> Channels:
    """Put channels side by side on axis 1, or tie them on any later axis."""
    parts = call.argument(0, "tensors")
    num_axes = call.tensor_result().ndim
    axis = call.argument(1, "dim", 0) % num_axes
    if axis == 0 or not isinstance(parts, tuple | list):
        raise CannotFollow("joins the channels with the batch")
    channels = [call.channels_of(part) for part in parts]
    if axis == 1:
        return np.concatenate(channels)
    for other in channels[1:]:
        call.coupling.tie(channels[0], other)
    return channels[0]


def _size(call: Call) -> Followed:
    tensor, channels = call.source()
    axis = call.argument(1, "dim")
    if axis is None:
        return ShapeOf(channels)
    return CountOf(channels) if axis % tensor.ndim == 1 else None


def _attribute(call: Call) -> Followed:
    name = call.argument(1, "name")
    if name not in {"shape", "dtype", "device", "ndim"}:
        raise CannotFollow(f"reads the attribute {name!r}")
    return ShapeOf(call.source()[1]) if name == "shape" else None


def _item(call: Call) -> Followed:
    """Follow an entry of a shape; parts of tensors are not followed."""
    node, index = call.argument(0, "self"), call.argument(1, "index")
    shape = call.followed[node]
    if not isinstance(shape, ShapeOf) or not isinstance(index, int):
        raise CannotFollow("takes a part of a tensor")
    return CountOf(shape.channels) if index % len(call.values[node]) == 1 else None


def _ways_to_call(*names: str) -> set[Any]:
    """Return every function of that name, in place too, and the names of the tensor methods."""
    spelled = [*names, *(f"{name}_" for name in names)]
    owners = (torch, functional, operator)
    return {*spelled} | {getattr(owner, name) for owner in owners for name in spelled if hasattr(owner, name)}


_ELEMENTWISE_NAMES = (
    *("add", "sub", "mul", "div", "true_divide", "truediv", "pow", "maximum", "minimum", "neg", "abs"),
    *("iadd", "isub", "imul", "itruediv", "exp", "sqrt", "rsqrt", "square", "reciprocal", "clamp", "clip"),
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign"),
    *("sigmoid", "logsigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "threshold"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    *("clone", "contiguous", "detach", "float", "to", "type_as", "expand_as"),
)

RULES: dict[Any, Rule] = {
    **dict.fromkeys(_ways_to_call(*_ELEMENTWISE_NAMES), elementwise),
    **{
        way: pooling(num_spatial)
        for num_spatial in (1, 2, 3)
        for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
        for way in _ways_to_call(f"{kind}{num_spatial}d")
    },
    functional.interpolate: per_channel,
    **dict.fromkeys(_ways_to_call("mean", "sum", "amax", "amin"), _reduction),
    **dict.fromkeys(_ways_to_call("flatten"), _flatten),
    **dict.fromkeys(_ways_to_call("view", "reshape"), _reshape),
    **dict.fromkeys(_ways_to_call("squeeze"), _squeeze),
    **dict.fromkeys(_ways_to_call("unsqueeze"), _unsqueeze),
    **dict.fromkeys(_ways_to_call("cat", "concat", "concatenate"), _concatenate),
    "size": _size,
    getattr: _attribute,
    operator.getitem: _item,
    "dim": lambda call: None,
}
"""By function, or by name for tensor methods."""
