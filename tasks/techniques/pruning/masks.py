"""Masked weights as structured pruning sees them: a mask loses the same channels as its weight."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import ModelError, TechniqueError
from tasks.models.masking import Masked


def only_masked(layer: nn.Module) -> bool:
    """Tell whether the layer's tensors are its own, or covered by masks and nothing else."""
    return all(isinstance(each, Masked) for each in _parametrizations(layer))


def require_plain_or_masked(module: nn.Module) -> None:
    """Refuse networks with weights that are computed otherwise than by masks.

    Raises:
        TechniqueError: there are such; what they are computed from cannot lose channels.
    """
    for path, layer in module.named_modules():
        if not only_masked(layer):
            kinds = sorted({type(each).__name__ for each in _parametrizations(layer)} - {Masked.__name__})
            raise TechniqueError(
                f"the weights of {path!r} are computed by {', '.join(kinds)} and cannot lose a part; "
                "prune before the technique that did this"
            )


def select_entries(layer: nn.Module, name: str, index: tuple[Tensor, ...]) -> None:
    """Replace a parameter of the layer, and the masks over it, by some of their entries.

    Args:
        layer: changed in place.
        name: `weight` or `bias`.
        index: as in indexing a tensor.

    Raises:
        ModelError: the parameter is computed by something else than masks.
    """
    if not parametrize.is_parametrized(layer, name):
        setattr(layer, name, _selected(getattr(layer, name), index))
        return
    if not only_masked(layer):
        raise ModelError(
            f"the {name} of a {type(layer).__name__} is computed by more than masks and cannot be narrowed"
        )
    chain: Any = layer.parametrizations[name]  # type: ignore[index]
    chain.original = _selected(chain.original, index)
    for each in chain:
        each.mask = each.mask[_on(each.mask, index)].clone()


def two_four_layers(module: nn.Module) -> frozenset[str]:
    """Return the paths of the masked layers in which exactly 2 of each 4 consecutive inputs are kept."""
    found = set()
    for path, layer in module.named_modules():
        for each in _parametrizations(layer):
            if isinstance(each, Masked) and each.mask.ndim > 1 and each.mask.shape[1] % 4 == 0:
                groups_N4 = each.mask.movedim(1, -1).reshape(-1, 4)
                found |= {path} if bool((groups_N4.sum(dim=1) == 2).all()) else set()
    return frozenset(found)


def require_two_four(module: nn.Module, layers: frozenset[str]) -> None:
    """Check that these layers still keep 2 of each 4 inputs; removing inputs moves the others across the fours.

    Raises:
        TechniqueError: one does not.
    """
    if broken := sorted(layers - two_four_layers(module)):
        raise TechniqueError(
            f"removing inputs of {', '.join(broken)} would break its 2:4 sparsity, which no sparse kernel could use "
            "then; prune channels or heads before prune_two_four, or add the layers before it to `ignore`"
        )


def _parametrizations(layer: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(layer):
        return []
    chains: Any = layer.parametrizations
    return [each for chain in chains.values() for each in chain]


def _selected(parameter: Tensor, index: tuple[Tensor, ...]) -> nn.Parameter:
    selected = parameter.detach()[_on(parameter, index)].clone()
    return nn.Parameter(selected, requires_grad=parameter.requires_grad)


def _on(tensor: Tensor, index: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.to(tensor.device) for part in index)
