"""Replaces layers by their factors, and does it again when the model is rebuilt."""

from collections.abc import Mapping, Sequence

from torch import nn

from tasks.contracts.errors import ModelError
from tasks.models.architecture import surgery
from tasks.techniques.factorization.decompositions import ConvolutionForm, Ranks, decomposition_of, empty_layers


@surgery
def split_layers(module: nn.Module, form: ConvolutionForm, ranks: Mapping[str, Sequence[int]]) -> nn.Module:
    """Put the layers of the given ranks in the place of each named layer; their weights are loaded afterwards.

    Args:
        module: the network, changed in place.
        form: how convolutions with a kernel above 1x1 are split.
        ranks: from the path of a layer to (R,) or (R_i, R_o).

    Raises:
        ModelError: there is no such layer, or it cannot be split.
    """
    for path, layer_ranks in ranks.items():
        layer = _layer(module, path)
        replace_layer(module, path, empty_layers(layer, form, tuple(layer_ranks)))
    return module


def factorized(module: nn.Module, form: ConvolutionForm, ranks: Mapping[str, Ranks]) -> nn.Module:
    """Replace each named layer by its best approximation of the given ranks, in place."""
    for path, layer_ranks in ranks.items():
        decomposition = decomposition_of(_layer(module, path), form)
        assert decomposition is not None
        replace_layer(module, path, decomposition.layers(layer_ranks))
    return module


def replace_layer(module: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` in the place of the layer at `path`, in the same mode."""
    new.train(module.get_submodule(path).training)
    module.set_submodule(path, new)


def _layer(module: nn.Module, path: str) -> nn.Module:
    try:
        layer = module.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"there is no layer {path!r} to factorize ({error}); the recipe is of another network"
        ) from error
    if decomposition_of(layer, "tucker2") is None:
        raise ModelError(f"layer {path!r} is a {type(layer).__name__} that cannot be factorized")
    return layer
