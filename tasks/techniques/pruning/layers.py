"""What torch's layers do to the channels of their inputs, and which layers a group can shrink."""

from typing import get_args

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from tasks.techniques.pruning.calls import Call, CannotFollow, ChannelAxis, Followed, Rule
from tasks.techniques.pruning.coupling import Channels, Coupling
from tasks.techniques.pruning.masks import only_masked
from tasks.techniques.pruning.operations import elementwise, normalising, padding, per_channel, pooling
from tasks.techniques.pruning.reshaping import flattening

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Producer = nn.Linear | Convolution
FeatureNorm = (
    nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
)
Norm = FeatureNorm | nn.GroupNorm
"""Layers with statistics, scale and shift for each channel or each group of channels on axis 1."""

_NUM_SPATIAL: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
"""How many axes follow the channels in the inputs of each convolution."""
_SHRINKABLE = {*get_args(Producer), *get_args(Norm)}
_STATE_NAMES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}

_ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_POOLING = (
    (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
    (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
)
_PADDING = (
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
)
_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **{kind: pooling(num) for num, kinds in enumerate(_POOLING, start=1) for kind in kinds},
    nn.Upsample: per_channel,
}


def can_shrink(layer: nn.Module) -> bool:
    """Tell whether the layer has the parts that torch gave it, or masks over them, and no others.

    Rules hold for exact types: a subclass may compute anything. Hooks and reparametrizations (weight
    norm) do so too.
    """
    known = parametrize.type_before_parametrizations(layer) in _SHRINKABLE
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return known and not hooked and only_masked(layer) and {*layer._parameters, *layer._buffers} <= _STATE_NAMES


def makes_channels(layer: nn.Module) -> bool:
    """Tell whether the layer has weights that make new channels."""
    return isinstance(layer, Producer)


def follow_shrinkable(call: Call, layer: nn.Module, path: str) -> ChannelAxis:
    """Bind the axes of a layer that `can_shrink` to the channels that reach it, and return those that leave it."""
    if isinstance(layer, Norm):
        return _norm(call, layer, path)
    if isinstance(layer, nn.Linear):
        return _linear(call, layer, path)
    assert isinstance(layer, Convolution), "nothing else makes channels"
    return _convolution(call, layer, path)


def follow_fixed(call: Call, layer: nn.Module) -> Followed:
    """Return the channels that leave a layer without channels of its own.

    Raises:
        CannotFollow: there is no rule for this layer, or none for the shape of its input.
    """
    if type(layer) is nn.Flatten:
        return flattening(call, layer.start_dim, layer.end_dim)
    if type(layer) is nn.PReLU and layer.num_parameters == 1:
        return elementwise(call)
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return normalising(call, range(-len(layer.normalized_shape), 0))
    if type(layer) in (nn.Softmax, nn.LogSoftmax) and isinstance(layer.dim, int):
        return normalising(call, [layer.dim])
    if isinstance(layer, _PADDING):
        return padding(call, layer.padding, "constant" if hasattr(layer, "value") else "other")
    if type(layer) not in _RULES:
        raise CannotFollow("has no rule")
    return _RULES[type(layer)](call)


def _norm(call: Call, layer: Norm, path: str) -> ChannelAxis:
    arriving = call.coupling.bind(path, "norm", call.arriving(1))
    if isinstance(layer, nn.GroupNorm):  # statistics are of a whole group: it stays or goes
        for group in arriving.reshape(layer.num_groups, -1):
            call.coupling.tie(group, np.repeat(group[:1], len(group)))
    return ChannelAxis(arriving, 1)


def _linear(call: Call, layer: nn.Linear, path: str) -> ChannelAxis:
    last = call.values[call.argument(0, "input")].ndim - 1
    if last == 0:
        raise CannotFollow("takes rows one by one")
    call.coupling.bind(path, "in", call.arriving(last))
    return ChannelAxis(call.coupling.bind(path, "out", call.coupling.new_channels(layer.out_features)), last)


def _convolution(call: Call, layer: Convolution, path: str) -> ChannelAxis:
    if call.values[call.argument(0, "input")].ndim != _NUM_SPATIAL[parametrize.type_before_parametrizations(layer)] + 2:
        raise CannotFollow("takes its channels from another axis")
    arriving = call.arriving(1)
    call.coupling.bind(path, "in", arriving)
    leaving = call.coupling.bind(path, "out", call.coupling.new_channels(layer.out_channels))
    _tie_convolution_groups(call.coupling, layer.groups, arriving, leaving)
    return ChannelAxis(leaving, 1)


def _tie_convolution_groups(coupling: Coupling, num_groups: int, arriving: Channels, leaving: Channels) -> None:
    """Keep the groups of a grouped convolution equally wide.

    Where a group has one input or one output (depthwise), whole groups go: all its channels are tied.
    Elsewhere the number of groups stays and each loses the same positions.
    """
    if num_groups == 1:
        return
    arriving_GI, leaving_GO = arriving.reshape(num_groups, -1), leaving.reshape(num_groups, -1)
    if 1 in (arriving_GI.shape[1], leaving_GO.shape[1]):
        for column in (*arriving_GI.T, *leaving_GO.T):
            coupling.tie(arriving_GI[:, 0], column)
    else:
        for channels in (arriving_GI, leaving_GO):
            for row in channels[1:]:
                coupling.tie(channels[0], row)
