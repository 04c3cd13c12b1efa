"""Weights that are computed from others (masked, shared): made plain again where only their values count."""

from torch import nn
from torch.nn.utils import parametrize


def without_parametrizations(module: nn.Module) -> nn.Module:
    """Replace every parametrized tensor by its present value, in place, and return the module."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return module
