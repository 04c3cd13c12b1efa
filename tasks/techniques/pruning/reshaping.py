"""What functions and tensor methods that move axes, join them or read sizes do to the followed axis."""

import math
from typing import Any

import numpy as np
from torch import Tensor, fx

from tasks.techniques.pruning.calls import Call, CannotFollow, ChannelAxis, CountOf, Followed, Parts, ShapeOf


def flattening(call: Call, start: int, end: int) -> ChannelAxis:
    """Axes `start` to `end` become one; a channel becomes as many features as it has positions."""
    tensor, source = call.source()
    start, end = start % tensor.ndim, end % tensor.ndim
    if end < source.axis:
        return ChannelAxis(source.channels, source.axis - (end - start))
    if start > source.axis:
        return source
    if start == 0:
        raise CannotFollow("joins the channels with the batch")
    before = math.prod(tensor.shape[start : source.axis])
    after = math.prod(tensor.shape[source.axis + 1 : end + 1])
    return ChannelAxis(np.tile(np.repeat(source.channels, after), before), start)


def flatten(call: Call) -> ChannelAxis:
    """Follow `flatten(start_dim, end_dim)`."""
    return flattening(call, call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1))


def reshape(call: Call) -> ChannelAxis:
    """Follow the reshapes that still fit when channels are gone: their axis is -1, or computed from the channels.

    That axis may take in axes that come after it, as flattening does.
    """
    tensor, source = call.source()
    sizes = _listed(call)
    given: list[Any] = [call.followed[size] if isinstance(size, fx.Node) else size for size in sizes]
    place = _place_of(tensor, source, call.tensor_result())
    if any(isinstance(size, CountOf) for position, size in enumerate(given) if position != place):
        raise CannotFollow("computes a size from the number of channels")
    if place is None or not (isinstance(given[place], CountOf) or given[place] == -1):
        raise CannotFollow("fixes the number of channels or features; write -1 there")
    repeats = call.tensor_result().shape[place] // len(source.channels)
    if isinstance(given[place], CountOf):
        if repeats > 1:
            raise CannotFollow("computes a size from the number of channels")
        call.coupling.tie(given[place].source.channels, source.channels)
    return ChannelAxis(np.repeat(source.channels, repeats), place)


def _place_of(tensor: Tensor, source: ChannelAxis, result: Tensor) -> int | None:
    """Return the axis of the result that holds the channels, alone or with axes that come after them."""
    before, width = math.prod(tensor.shape[: source.axis]), tensor.shape[source.axis]
    joined = {width * math.prod(tensor.shape[source.axis + 1 : end]) for end in range(source.axis + 1, tensor.ndim + 1)}
    for place, size in enumerate(result.shape):
        if math.prod(result.shape[:place]) == before and size in joined:
            return place
    return None


def permute(call: Call) -> ChannelAxis:
    """Follow the axis to its new place."""
    tensor, source = call.source()
    return _placed(source, [axis % tensor.ndim for axis in _listed(call)].index(source.axis))


def transpose(call: Call) -> ChannelAxis:
    """Follow the axis to its new place."""
    tensor, source = call.source()
    one, other = call.argument(1, "dim0") % tensor.ndim, call.argument(2, "dim1") % tensor.ndim
    return _placed(source, {one: other, other: one}.get(source.axis, source.axis))


def squeeze(call: Call) -> ChannelAxis:
    """Follow the axis when named axes of size 1 before or after it go."""
    tensor, source = call.source()
    gone = [axis for axis in _other_axes(call, tensor.ndim, source) if tensor.shape[axis] == 1]
    return ChannelAxis(source.channels, source.axis - sum(axis < source.axis for axis in gone))


def unsqueeze(call: Call) -> ChannelAxis:
    """Follow the axis when one of size 1 comes before or after it."""
    tensor, source = call.source()
    place = call.argument(1, "dim") % (tensor.ndim + 1)
    if place == 0:
        raise CannotFollow("moves the batch to another axis")
    return ChannelAxis(source.channels, source.axis + (place <= source.axis))


def reduction(call: Call) -> ChannelAxis:
    """Reduce over positions, never over rows or channels."""
    tensor, source = call.source()
    call.tensor_result()
    gone = _other_axes(call, tensor.ndim, source)
    if call.argument(2, "keepdim", default=False):
        return source
    return ChannelAxis(source.channels, source.axis - sum(axis < source.axis for axis in gone))


def _other_axes(call: Call, num_axes: int, source: ChannelAxis) -> list[int]:
    """Return the axes that the call names in `dim`, none of which may be the rows or the channels."""
    named = call.argument(1, "dim")
    named = (named,) if isinstance(named, int) else named
    axes = [axis % num_axes for axis in named] if isinstance(named, tuple | list) else []
    if not axes or {0, source.axis} & {*axes}:
        raise CannotFollow("is not limited to axes besides rows and channels")
    return axes


def size(call: Call) -> Followed:
    """Follow `size()` and `size(dim)`."""
    tensor, source = call.source()
    axis = call.argument(1, "dim")
    if axis is None:
        return ShapeOf(source)
    return CountOf(source) if axis % tensor.ndim == source.axis else None


def attribute(call: Call) -> Followed:
    """Follow `shape`; the other attributes that networks read say nothing of sizes."""
    name = call.argument(1, "name")
    if name not in {"shape", "dtype", "device", "ndim"}:
        raise CannotFollow(f"reads the attribute {name!r}")
    return ShapeOf(call.source()[1]) if name == "shape" else None


def item(call: Call) -> Followed:
    """Follow an entry of a shape, a piece of a cut tensor, or a part of a tensor that has all channels."""
    node, index = call.argument(0, "self"), call.argument(1, "index")
    followed = call.followed[node]
    if isinstance(followed, Parts) and isinstance(index, int):
        return followed.pieces[index]
    if isinstance(followed, Parts) and isinstance(index, slice):
        return Parts(followed.pieces[index])
    if isinstance(followed, ShapeOf) and isinstance(index, int | slice):
        return _part_of_shape(followed, index, len(call.values[node]))
    if not isinstance(followed, ChannelAxis) or any(call.followed[other] for other in call.node.all_input_nodes[1:]):
        raise CannotFollow("takes a part of a tensor")
    return _placed(followed, _place_after_indexing(index, call.values[node].ndim, followed.axis))


def _part_of_shape(shape: ShapeOf, index: int | slice, num_axes: int) -> Followed:
    if isinstance(index, int):
        return CountOf(shape.source) if index % num_axes == shape.source.axis else None
    if shape.source.axis in range(num_axes)[index]:
        raise CannotFollow("takes a part of a shape")
    return None


def _place_after_indexing(index: Any, num_axes: int, followed: int) -> int:
    """Return where an axis that is taken whole lies in `tensor[index]`."""
    entries = list(index) if isinstance(index, tuple) else [index]
    named = sum(entry is not None and entry is not Ellipsis for entry in entries)
    dots = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    entries[dots : dots + 1] = [slice(None)] * (num_axes - named)
    axis = place = found = 0
    for entry in entries:
        if entry is None:
            place += 1
            continue
        if axis == followed:
            found = place
        if (axis == followed and entry != slice(None)) or not isinstance(entry, slice | int):
            raise CannotFollow("takes a part of a tensor")
        place += isinstance(entry, slice)
        axis += 1
    return found


def _listed(call: Call) -> list[Any]:
    """Return the sizes or axes that a call names, one by one or as a list."""
    given = call.node.args[1:] or tuple(call.node.kwargs.values())
    return list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else list(given)


def _placed(source: ChannelAxis, axis: int) -> ChannelAxis:
    if axis == 0:
        raise CannotFollow("puts the channels where the batch is")
    return ChannelAxis(source.channels, axis)
