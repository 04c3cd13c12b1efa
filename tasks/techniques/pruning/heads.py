"""Whole heads of self-attention: the groups that they make, and the surgery that removes them."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tasks.contracts.errors import ModelError, TechniqueError
from tasks.contracts.model import Surgery
from tasks.models.architecture import Network, surgery
from tasks.models.attention import SelfAttention
from tasks.techniques.pruning.coupling import Axis, Group, Member
from tasks.techniques.pruning.layers import can_shrink
from tasks.techniques.pruning.surgery import keep_channels
from tasks.techniques.pruning.unit_pruning import Kept

_KEEP: TypeAdapter[dict[str, list[int]]] = TypeAdapter(dict[str, list[int]])
_AXES: dict[str, Axis] = {"query": "out", "key": "out", "value": "out", "out": "in"}
"""The layers of an attention, and which axis of each is cut into heads."""


def head_groups(module: nn.Module, targets: Sequence[str] = ("*",), ignore: Sequence[str] = ()) -> tuple[Group, ...]:
    """Return a group for each self-attention, whose units are its heads.

    Args:
        module: the network; it is not changed.
        targets: globs of the paths of attentions; the others keep their heads.
        ignore: globs of the paths of attentions that keep their heads.

    Raises:
        TechniqueError: there is no `tasks.models.attention.SelfAttention` in the network, or a glob matches none.
    """
    attentions = {path: part for path, part in module.named_modules() if isinstance(part, SelfAttention)}
    if not attentions:
        raise TechniqueError(
            f"{type(module).__name__} has no tasks.models.attention.SelfAttention, so no heads can be removed; "
            "leave prune_heads out, or build the network with that layer"
        )
    for role, globs in (("targets", targets), ("ignore", ignore)):
        for glob in globs:
            if not any(fnmatchcase(path, glob) for path in attentions):
                raise TechniqueError(f"{role}={glob!r} matches no attention; they are {', '.join(attentions)}")

    def reason(path: str, attention: SelfAttention) -> str | None:
        if any(fnmatchcase(path, glob) for glob in ignore):
            return f"{path} is ignored"
        if not any(fnmatchcase(path, glob) for glob in targets):
            return f"{path} is no target"
        odd = [name for name in _AXES if not can_shrink(attention.get_submodule(name))]
        return f"{odd[0]} of {path} is no plain linear layer" if odd else None

    return tuple(_group(path, attention, reason(path, attention)) for path, attention in attentions.items())


def _group(path: str, attention: SelfAttention, reason: str | None) -> Group:
    features_HD = np.arange(attention.num_heads * attention.head_width).reshape(attention.num_heads, -1)
    members = (Member(f"{path}.{name}".lstrip("."), axis, features_HD) for name, axis in _AXES.items())
    return Group(tuple(members), reason)


def narrow_heads(network: Network, groups: tuple[Group, ...], kept: Kept) -> Network:
    """Remove the heads that are not kept."""
    keep: dict[str, Any] = {
        group.members[0].path.removesuffix("query").rstrip("."): kept[group.key].tolist()
        for group in groups
        if group.key in kept and len(kept[group.key]) < group.num_units
    }
    operation = Surgery(function="tasks.techniques.pruning.heads:keep_heads", arguments={"keep": keep})
    return network.with_surgery(operation, keep_heads(network.module, keep))


@surgery
def keep_heads(module: nn.Module, keep: dict[str, list[int]]) -> nn.Module:
    """Keep only the named heads of the named self-attentions.

    Args:
        module: the network; it is changed in place.
        keep: for each path of a `SelfAttention`, the heads that it keeps, in rising order, at least one.

    Returns:
        `module`.

    Raises:
        ModelError: a path is no self-attention, or a head does not exist.
    """
    try:
        requested = _KEEP.validate_python(keep, strict=True)
    except ValidationError as error:
        raise ModelError(f"keep_heads got a malformed list of heads to keep: {error}") from error
    attentions = {path: part for path, part in module.named_modules() if isinstance(part, SelfAttention)}
    for path, heads in requested.items():
        if path not in attentions:
            raise ModelError(f"keep_heads: the network has no self-attention {path!r}; it has {sorted(attentions)}")
        attention = attentions[path]
        if heads != sorted(set(heads)) or not heads or heads[0] < 0 or heads[-1] >= attention.num_heads:
            raise ModelError(
                f"keep_heads: {path!r} has heads 0 to {attention.num_heads - 1}; those to keep must be some of them "
                f"in rising order, but they are {heads}"
            )
        width = attention.head_width
        features = [head * width + feature for head in heads for feature in range(width)]
        keep_channels(attention, {name: {axis: features} for name, axis in _AXES.items()})
        attention.num_heads = len(heads)
    return module
