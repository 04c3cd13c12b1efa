"""Which layers a technique works on: globs on module paths."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.contracts.errors import TechniqueError

if TYPE_CHECKING:
    from torch import nn

Targets = Annotated[
    tuple[str, ...],
    Field(min_length=1, description="Globs on module paths, such as 'stages.*'; the technique works on these layers."),
]
Ignore = Annotated[tuple[str, ...], Field(description="Globs on module paths, such as 'head'; these stay as they are.")]


def select_layers(
    module: "nn.Module", types: "tuple[type[nn.Module], ...]", targets: Sequence[str], ignore: Sequence[str]
) -> "dict[str, nn.Module]":
    """Return the layers of `types` by path, in the module's order, that match a target and no ignore.

    Raises:
        TechniqueError: a glob matches no layer of these types, or nothing is left.
    """
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, types)}
    for role, globs in (("targets", targets), ("ignore", ignore)):
        for glob in globs:
            if not any(fnmatchcase(path, glob) for path in layers):
                raise TechniqueError(
                    f"{role}: the glob {glob!r} matches no layer; the layers are {', '.join(layers) or 'none'}"
                )
    chosen = {
        path: layer
        for path, layer in layers.items()
        if any(fnmatchcase(path, glob) for glob in targets) and not any(fnmatchcase(path, glob) for glob in ignore)
    }
    if not chosen:
        raise TechniqueError(
            f"targets {list(targets)} without ignore {list(ignore)} leave no layer to work on among {', '.join(layers)}"
        )
    return chosen
