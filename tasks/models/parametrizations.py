"""Weights that are computed from others (masked, shared): made plain again where only their values count."""

from torch import nn
from torch.nn.utils import parametrize

_OF_EVERY_CLASS = ("__dict__", "__weakref__")


def without_parametrizations(module: nn.Module) -> nn.Module:
    """Replace every parametrized tensor by its present value, in place, and return the module."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            _give_own_class(layer)
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return module


def _give_own_class(layer: nn.Module) -> None:
    """Part a parametrized layer from its deep copies: torch lets them share a class, and removal takes from the class.

    Without this, making a copy plain would take the weights from the original.
    """
    shared = type(layer)
    own = {name: value for name, value in vars(shared).items() if name not in _OF_EVERY_CLASS}
    layer.__class__ = type(shared.__name__, shared.__bases__, own)
