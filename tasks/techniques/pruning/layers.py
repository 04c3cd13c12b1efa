"""What torch's layers do to the channels on axis 1, and which layers a group can shrink."""

from typing import cast

from torch import nn

from tasks.techniques.pruning.calls import Call, CannotFollow, Followed, Rule
from tasks.techniques.pruning.coupling import Channels, Coupling
from tasks.techniques.pruning.operations import elementwise, flattening, per_channel, pooling

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Producer = nn.Linear | Convolution
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_NUM_SPATIAL: dict[type[nn.Module], int] = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
"""How many axes follow the channels in the inputs of each layer that makes channels."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
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
_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **{kind: pooling(num) for num, kinds in enumerate(_POOLING, start=1) for kind in kinds},
    nn.Upsample: per_channel,
}


def can_shrink(layer: nn.Module) -> bool:
    """Tell whether the layer has the parts that torch gave it and no others.

    Rules hold for exact types: a subclass may compute anything. Hooks and reparametrizations (weight
    norm, masks) do so too.
    """
    known = type(layer) in _NUM_SPATIAL or type(layer) in _NORMS
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return known and not hooked and {*layer._parameters, *layer._buffers} <= _STATE_NAMES


def follow_shrinkable(call: Call, layer: nn.Module, path: str) -> Channels:
    """Bind the axes of a layer that `can_shrink` to the channels that reach it, and return those that leave it."""
    return _norm(call, layer, path) if isinstance(layer, _NORMS) else _producer(call, cast(Producer, layer), path)


def follow_fixed(call: Call, layer: nn.Module) -> Followed:
    """Return the channels that leave a layer without channels of its own.

    Raises:
        CannotFollow: there is no rule for this layer, or none for the shape of its input.
    """
    if type(layer) is nn.Flatten:
        return flattening(call, layer.start_dim, layer.end_dim)
    if type(layer) is nn.PReLU and layer.num_parameters == 1:
        return elementwise(call)
    if type(layer) not in _RULES:
        raise CannotFollow("has no rule")
    return _RULES[type(layer)](call)


def _norm(call: Call, layer: nn.Module, path: str) -> Channels:
    return call.coupling.bind(path, "norm", call.arriving())


def _producer(call: Call, layer: Producer, path: str) -> Channels:
    arriving = call.arriving()
    if call.values[call.argument(0, "input")].ndim != _NUM_SPATIAL[type(layer)] + 2:
        raise CannotFollow("takes its channels from another axis than 1")
    call.coupling.bind(path, "in", arriving)
    leaving = call.coupling.bind(path, "out", call.coupling.new_channels(layer.weight.shape[0]))
    if not isinstance(layer, nn.Linear):
        _tie_convolution_groups(call.coupling, layer.groups, arriving, leaving)
    return leaving


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
