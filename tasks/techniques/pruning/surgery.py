"""The surgery that removes channels. It is replayed from JSON alone and knows nothing of graphs.

Dimension legend: O outputs and I inputs of a layer, J inputs of one convolution group.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from tasks.contracts.errors import ModelError
from tasks.models.architecture import surgery
from tasks.techniques.pruning.layers import Convolution, FeatureNorm
from tasks.techniques.pruning.masks import select_entries

_Axis = Literal["out", "in", "norm"]
_KEEP: TypeAdapter[dict[str, dict[_Axis, list[int]]]] = TypeAdapter(dict[str, dict[_Axis, list[int]]])


@surgery
def keep_channels(module: nn.Module, keep: dict[str, dict[str, list[int]]]) -> nn.Module:
    """Keep only the named channels of the named layers, weights and running statistics included.

    Args:
        module: the network; it is changed in place.
        keep: for each path of a layer, the channels that each of its axes keeps, in rising order:
            `out` and `in` for linear layers and convolutions, `norm` for batch, instance and group norms.
            An axis that is not named keeps all. A grouped convolution must keep equally many in each group
            that it keeps, a group norm whole groups.

    Returns:
        `module`.

    Raises:
        ModelError: a path, axis or channel does not exist in this network, or the groups would be uneven.
    """
    try:
        requested = _KEEP.validate_python(keep, strict=True)
    except ValidationError as error:
        raise ModelError(f"keep_channels got a malformed list of channels to keep: {error}") from error
    for path, axes in requested.items():
        layer = _find(module, path)
        if isinstance(layer, nn.GroupNorm):
            _narrow_group_norm(path, layer, _kept(path, axes, "norm", layer.num_channels))
        elif isinstance(layer, FeatureNorm):
            _narrow_norm(layer, _kept(path, axes, "norm", layer.num_features))
        elif isinstance(layer, nn.Linear):
            kept_out = _kept(path, axes, "out", layer.out_features)
            _narrow_linear(layer, kept_out, _kept(path, axes, "in", layer.in_features))
        elif isinstance(layer, Convolution):
            kept_out = _kept(path, axes, "out", layer.out_channels)
            _narrow_convolution(path, layer, kept_out, _kept(path, axes, "in", layer.in_channels))
        else:
            raise ModelError(f"keep_channels cannot change {path!r}, a {type(layer).__name__}")
        if axes:
            raise ModelError(f"keep_channels: {path!r}, a {type(layer).__name__}, has no axis {sorted(axes)}")
    return module


def _find(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"keep_channels: the network has no layer {path!r} ({error})") from error


def _kept(path: str, axes: dict[_Axis, list[int]], axis: _Axis, num_channels: int) -> list[int]:
    """Take the checked channels of one axis out of the request; all of them if it does not name the axis."""
    channels = axes.pop(axis, None)
    if channels is None:
        return list(range(num_channels))
    if channels != sorted(set(channels)) or not channels or channels[0] < 0 or channels[-1] >= num_channels:
        raise ModelError(
            f"keep_channels: axis {axis!r} of {path!r} has channels 0 to {num_channels - 1}; those to keep must be "
            f"some of them in rising order, but they are {channels}"
        )
    return channels


def _narrow_linear(layer: nn.Linear, kept_out: list[int], kept_in: list[int]) -> None:
    _select_parameter(layer, "weight", torch.tensor(kept_out)[:, None], torch.tensor(kept_in))
    _select_parameter(layer, "bias", torch.tensor(kept_out))
    layer.out_features, layer.in_features = len(kept_out), len(kept_in)


def _narrow_norm(layer: FeatureNorm, kept: list[int]) -> None:
    channels = torch.tensor(kept)
    _select_parameter(layer, "weight", channels)
    _select_parameter(layer, "bias", channels)
    for name in ("running_mean", "running_var"):
        statistics = getattr(layer, name)
        if statistics is not None:
            setattr(layer, name, statistics[channels.to(statistics.device)].clone())
    layer.num_features = len(kept)


def _narrow_group_norm(path: str, layer: nn.GroupNorm, kept: list[int]) -> None:
    """Keep whole groups only: the statistics of what is left then stay the same."""
    positions = _by_group(kept, layer.num_channels // layer.num_groups)
    if any(len(group) != layer.num_channels // layer.num_groups for group in positions.values()):
        raise ModelError(
            f"keep_channels: {path!r} normalises in {layer.num_groups} groups, which must stay or go whole"
        )
    _select_parameter(layer, "weight", torch.tensor(kept))
    _select_parameter(layer, "bias", torch.tensor(kept))
    layer.num_channels, layer.num_groups = len(kept), len(positions)


def _narrow_convolution(path: str, layer: Convolution, kept_out: list[int], kept_in: list[int]) -> None:
    """Select weights [O, J, ...]; output o reads the kept inputs of its own group."""
    group_inputs, group_outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    inputs_of = _by_group(kept_in, group_inputs)
    outputs_of = _by_group(kept_out, group_outputs)
    widths = {(len(inputs_of[group]), len(outputs_of[group])) for group in inputs_of.keys() | outputs_of.keys()}
    if len(widths) != 1 or 0 in next(iter(widths)):
        raise ModelError(
            f"keep_channels: the groups of {path!r} would keep (inputs, outputs) of {sorted(widths)}; "
            "each group that stays must keep equally many"
        )
    columns_OJ = torch.tensor([inputs_of[channel // group_outputs] for channel in kept_out])
    _select_parameter(layer, "weight", torch.tensor(kept_out)[:, None], columns_OJ)
    _select_parameter(layer, "bias", torch.tensor(kept_out))
    layer.in_channels, layer.out_channels = len(kept_in), len(kept_out)
    layer.groups = len(outputs_of)


def _by_group(channels: Sequence[int], group_width: int) -> defaultdict[int, list[int]]:
    """Return, for each convolution group with any of `channels`, their positions inside it."""
    positions: defaultdict[int, list[int]] = defaultdict(list)
    for channel in channels:
        positions[channel // group_width].append(channel % group_width)
    return positions


def _select_parameter(layer: nn.Module, name: str, *index: Tensor) -> None:
    if getattr(layer, name) is not None:
        select_entries(layer, name, index)
