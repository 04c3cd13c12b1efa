"""Layers some of whose weights are zero and stay zero: a parametrization with a mask.

The mask is a buffer, so checkpoints and model files carry it; whatever trains the network later leaves
the zeros alone, because the layer never sees the weights under the mask.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Surgery
from tasks.models.architecture import Network, surgery

_SURGERY = "tasks.models.masking:mask_weights"


class Masked(nn.Module):
    """weight = original where the mask is True, else 0; the gradient under the mask is 0."""

    mask: Tensor
    """bool, of the weight's shape; True where the weight is kept."""

    def __init__(self, shape: torch.Size) -> None:
        """Keep every weight."""
        super().__init__()
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool))

    def forward(self, original: Tensor) -> Tensor:
        """Return the weight."""
        # a product would give -0.0 for negative weights, which is other bytes than 0.0 in a file
        return original.masked_fill(self.mask.logical_not(), 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return what to store so that the layer's weight becomes `weight`, as far as the mask lets it."""
        return weight


@surgery
def mask_weights(module: nn.Module, layers: list[str]) -> nn.Module:
    """Put a mask that keeps everything over the `weight` of each named layer, after what computes it already.

    Args:
        module: the network; it is changed in place.
        layers: paths of the layers.

    Returns:
        `module`.

    Raises:
        ModelError: a path names no layer with a weight, or one that has a mask.
    """
    for path in layers:
        layer = _layer_at(module, path)
        if _mask_of(layer) is not None:
            raise ModelError(f"mask_weights: the weight of {path!r} has a mask already; one is enough")
        mask = Masked(layer.weight.shape).to(layer.weight.device)  # type: ignore[arg-type]
        parametrize.register_parametrization(layer, "weight", mask)
    return module


def with_masks(network: Network, layers: Iterable[str]) -> Network:
    """Return the network with masks on these layers; those that have one keep it. The module is changed in place.

    Raises:
        ModelError: see `mask_weights`.
    """
    masked = masks_of(network.module)
    new = [path for path in layers if path not in masked]
    if not new:
        return network
    module = mask_weights(network.module, layers=new)
    return network.with_surgery(Surgery(function=_SURGERY, arguments={"layers": new}), module)


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the masks themselves, not copies, by the path of their layer."""
    masks = {path: _mask_of(layer) for path, layer in module.named_modules()}
    return {path: mask for path, mask in masks.items() if mask is not None}


def set_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Write new values into the masks of some layers.

    Raises:
        ModelError: a layer has no mask, or one of another shape.
    """
    present = masks_of(module)
    for path, mask in masks.items():
        if path not in present or present[path].shape != mask.shape:
            raise ModelError(f"set_masks: {path!r} has no mask of shape {list(mask.shape)}; call mask_weights first")
        present[path].copy_(mask)


def clear_hidden_weights(module: nn.Module) -> None:
    """Set the stored weights under the masks to 0, so that no file carries values which nobody can see."""
    for layer in module.modules():
        if _mask_of(layer) is None:
            continue
        chain = layer.parametrizations.weight  # type: ignore[union-attr]
        if len(chain) == 1:  # type: ignore[arg-type]
            with torch.no_grad():
                chain.original.copy_(layer.weight)  # type: ignore[union-attr,operator,arg-type]


def _layer_at(module: nn.Module, path: str) -> nn.Module:
    try:
        layer = module.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"mask_weights: the network has no layer {path!r} ({error})") from error
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise ModelError(f"mask_weights: {path!r}, a {type(layer).__name__}, has no weight")
    return layer


def _mask_of(layer: nn.Module) -> Tensor | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain = layer.parametrizations.weight  # type: ignore[union-attr]
    return next((each.mask for each in chain if isinstance(each, Masked)), None)  # type: ignore[union-attr]
