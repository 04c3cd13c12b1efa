"""What functions and tensor methods do to the channels of their inputs."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from tasks.techniques.pruning import reshaping
from tasks.techniques.pruning.calls import Call, CannotFollow, ChannelAxis, Parts, Rule
from tasks.techniques.pruning.coupling import Channels


def elementwise(call: Call) -> ChannelAxis:
    """Tie the channels of all inputs; what is broadcast over the channels must stay as it is."""
    result = call.tensor_result()
    arrived: list[ChannelAxis] = []
    others: list[Tensor] = []
    for node in call.node.all_input_nodes:
        value, followed = call.values[node], call.followed[node]
        if followed is None:
            others.append(value)
            continue
        if not isinstance(followed, ChannelAxis):
            raise CannotFollow("computes with the number of channels")
        axis = followed.axis + result.ndim - value.ndim
        if value.shape[followed.axis] == result.shape[axis]:
            arrived.append(ChannelAxis(followed.channels, axis))
        else:
            call.coupling.freeze(followed.channels, f"is broadcast over other channels by {call.node.name}")
            others.append(value)
    if len({source.axis for source in arrived}) != 1:
        raise CannotFollow("meets channels on two axes" if arrived else "broadcasts one channel to many")
    for value in others:
        _require_same_for_all_channels(value, result, arrived[0].axis)
    for source in arrived[1:]:
        call.coupling.tie(arrived[0].channels, source.channels)
    return arrived[0]


def _require_same_for_all_channels(value: Any, result: Tensor, axis: int) -> None:
    """Check that a fixed value fits any number of channels on this axis of the result."""
    if isinstance(value, Tensor):
        own_axis = axis - (result.ndim - value.ndim)
        if own_axis >= 0 and value.shape[own_axis] != 1:
            raise CannotFollow("meets a fixed tensor with a value for each channel")


def per_channel(call: Call) -> ChannelAxis:
    """Each channel of the result comes from the same channel of the only input, on axis 1."""
    tensor, source = call.source()
    if source.axis != 1 or call.tensor_result().shape[:2] != tensor.shape[:2]:
        raise CannotFollow("changes the number of channels")
    return source


def pooling(num_spatial: int) -> Rule:
    """Return the rule of a pooling over `num_spatial` axes; with fewer axes torch takes axis 0 for the channels."""

    def rule(call: Call) -> ChannelAxis:
        tensor, source = call.source()
        if tensor.ndim != num_spatial + 2 or source.axis != 1:
            raise CannotFollow("pools over the channels")
        return per_channel(call)

    return rule


def normalising(call: Call, axes: Sequence[int]) -> ChannelAxis:
    """Follow what mixes the values of these axes and keeps the shape; the channels must not be among them."""
    tensor, source = call.source()
    if source.axis in {axis % tensor.ndim for axis in axes}:
        raise CannotFollow("normalises over the channels")
    return source


def padding(call: Call, amounts: Sequence[int], mode: str = "constant") -> ChannelAxis:
    """Follow `amounts`: before and after the last axis, the one before it, and so on; what is added stays."""
    tensor, source = call.source()
    from_last = tensor.ndim - 1 - source.axis
    before, after = amounts[2 * from_last : 2 * from_last + 2] or (0, 0)
    if min(before, after) < 0 or (mode != "constant" and (before, after) != (0, 0)):
        raise CannotFollow("cuts or repeats channels")
    ends = [call.coupling.frozen_channels(count, f"is added by {call.node.name}") for count in (before, after)]
    return ChannelAxis(np.concatenate([ends[0], source.channels, ends[1]]), source.axis)


def _pad(call: Call) -> ChannelAxis:
    return padding(call, call.argument(1, "pad"), call.argument(2, "mode", "constant"))


def _softmax(call: Call) -> ChannelAxis:
    return normalising(call, [call.argument(1, "dim")])


def _concatenate(call: Call) -> ChannelAxis:
    """Put channels side by side on their axis, or tie them on any other."""
    axis, channels = _joined_parts(call)
    joined = call.argument(1, "dim", 0) % call.tensor_result().ndim
    if joined == 0:
        raise CannotFollow("joins the channels with the batch")
    if joined == axis:
        return ChannelAxis(np.concatenate(channels), axis)
    for other in channels[1:]:
        call.coupling.tie(channels[0], other)
    return ChannelAxis(channels[0], axis)


def _joined_parts(call: Call) -> tuple[int, list[Channels]]:
    """Return the axis of the channels, the same for all parts, and the channels of each part."""
    parts = call.argument(0, "tensors")
    if isinstance(parts, fx.Node):  # the pieces of a cut tensor, as they are
        cut = call.followed[parts]
        assert isinstance(cut, Parts), "a list that carries channels is what chunk or split made"
        return cut.pieces[0].axis, [piece.channels for piece in cut.pieces]
    axis = next(followed.axis for part in parts if isinstance(followed := call.followed[part], ChannelAxis))
    return axis, [call.channels_of(part, axis) for part in parts]


def _chunk(call: Call) -> Parts:
    """Cut the channels into equal chunks, which must lose the same positions; or cut another axis."""
    tensor, source = call.source()
    number, axis = call.argument(1, "chunks"), call.argument(2, "dim", 0) % tensor.ndim
    if axis != source.axis:
        return _cut_beside(call, axis)
    if not isinstance(number, int) or tensor.shape[axis] % number:
        raise CannotFollow("cuts the channels unevenly")
    chunks = np.split(source.channels, number)
    for chunk in chunks[1:]:
        call.coupling.tie(chunks[0], chunk)
    return Parts(tuple(ChannelAxis(chunk, axis) for chunk in chunks))


def _split(call: Call) -> Parts:
    """Cut an axis besides the channels; sizes of parts of the channels would not fit when some are gone."""
    tensor, source = call.source()
    axis = call.argument(2, "dim", 0) % tensor.ndim
    if axis == source.axis:
        raise CannotFollow("cuts the channels at fixed places; use chunk")
    return _cut_beside(call, axis)


def _cut_beside(call: Call, axis: int) -> Parts:
    if axis == 0:
        raise CannotFollow("cuts the batch")
    return Parts((call.source()[1],) * len(call.result))


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
    **dict.fromkeys(_ways_to_call("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(_ways_to_call("pad"), _pad),
    **dict.fromkeys(_ways_to_call("mean", "sum", "amax", "amin"), reshaping.reduction),
    **dict.fromkeys(_ways_to_call("flatten"), reshaping.flatten),
    **dict.fromkeys(_ways_to_call("view", "reshape"), reshaping.reshape),
    **dict.fromkeys(_ways_to_call("permute"), reshaping.permute),
    **dict.fromkeys(_ways_to_call("transpose", "swapaxes", "swapdims"), reshaping.transpose),
    **dict.fromkeys(_ways_to_call("squeeze"), reshaping.squeeze),
    **dict.fromkeys(_ways_to_call("unsqueeze"), reshaping.unsqueeze),
    **dict.fromkeys(_ways_to_call("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(_ways_to_call("chunk"), _chunk),
    **dict.fromkeys(_ways_to_call("split"), _split),
    "size": reshaping.size,
    getattr: reshaping.attribute,
    operator.getitem: reshaping.item,
    "dim": lambda call: None,
}
"""By function, or by name for tensor methods."""
