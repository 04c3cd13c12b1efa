"""What each operation of a traced network means for int8: where onnxruntime fuses, passes on, or leaves it in float."""

import operator
from collections.abc import Sequence
from enum import Enum, auto

import torch
from torch import fx, nn
from torch.nn import functional

from tasks.techniques.quantization.tracing import module_of


class Role(Enum):
    """How an operation treats values that are quantised."""

    ACTIVATION = auto()
    """A clipping that the layer before it takes over: only what leaves it is rounded."""
    COMBINING = auto()
    """Computes new values in int8 if all its inputs are quantised."""
    MOVING = auto()
    """Moves or chooses values, which stay on the grid that they are on."""
    VANISHING = auto()
    """Does nothing in evaluation mode, and is not in the exported graph."""
    FLOAT = auto()
    """Anything else."""


_MODULES: dict[type[nn.Module], Role] = {
    **dict.fromkeys((nn.ReLU, nn.ReLU6), Role.ACTIVATION),
    **dict.fromkeys((nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LeakyReLU), Role.COMBINING),
    **dict.fromkeys((nn.MaxPool2d, nn.Flatten), Role.MOVING),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity), Role.VANISHING),
}
_FUNCTIONS: dict[object, Role] = {
    **dict.fromkeys((functional.relu, functional.relu6, torch.relu, torch.relu_), Role.ACTIVATION),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, torch.cat, torch.concat), Role.COMBINING),
    **dict.fromkeys((functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.leaky_relu), Role.COMBINING),
    **dict.fromkeys((operator.mul, torch.mul), Role.COMBINING),
    **dict.fromkeys((functional.max_pool2d, torch.max_pool2d, torch.flatten, torch.reshape), Role.MOVING),
    **dict.fromkeys((torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze), Role.MOVING),
}
_METHODS: dict[object, Role] = {
    **dict.fromkeys(("relu", "relu_"), Role.ACTIVATION),
    **dict.fromkeys(("add", "add_", "mul", "mul_"), Role.COMBINING),
    **dict.fromkeys(("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze"), Role.MOVING),
}
_TWO_OPERANDS = frozenset(
    {operator.add, operator.iadd, torch.add, operator.mul, torch.mul, "add", "add_", "mul", "mul_"}
)


def role_of(node: fx.Node) -> Role:
    """Return what `node` does to quantised values."""
    layer = module_of(node)
    if layer is not None:
        return _MODULES.get(type(layer), Role.FLOAT)
    table = _FUNCTIONS if node.op == "call_function" else _METHODS if node.op == "call_method" else {}
    role = table.get(node.target, Role.FLOAT)
    if node.target in _TWO_OPERANDS and (not _are_nodes(node.args[:2], 2) or node.kwargs):
        return Role.FLOAT
    return role


def operands(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that a combining or moving operation works on."""
    if node.target in _TWO_OPERANDS:
        return [argument for argument in node.args[:2] if isinstance(argument, fx.Node)]
    first = node.args[0] if node.args else None
    if isinstance(first, list | tuple):
        return [argument for argument in first if isinstance(argument, fx.Node)]
    return [first] if isinstance(first, fx.Node) else []


def clipped(node: fx.Node) -> fx.Node:
    """Return the value that is rounded for `node`: that of the clipping behind it, if nothing else uses it."""
    users = list(node.users)
    if len(users) == 1 and role_of(users[0]) is Role.ACTIVATION:
        return users[0]
    return node


def _are_nodes(arguments: Sequence[object], number: int) -> bool:
    return len(arguments) == number and all(isinstance(argument, fx.Node) for argument in arguments)
