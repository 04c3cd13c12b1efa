"""What the layers of a network take and give, caught while it runs.

Dimension legend: B rows of a batch, C channels, H height, W width, T positions of a sequence, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import TechniqueError
from tasks.techniques.distillation.layer_pairs import LayerShape, Tap
from tasks.techniques.precision import widened


class Caught:
    """The tensors of the last forward pass, one for each tap."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self._taps = tuple(taps)
        self._tensors: dict[Tap, Tensor] = {}

    def put(self, tap: Tap, tensor: Tensor) -> None:
        """Keep a layer's tensor; of a layer that runs more than once in a pass, the last."""
        self._tensors[tap] = tensor

    def take(self) -> list[Tensor]:
        """Return the tensors in the order of the taps, and forget them: none can be taken for one of a later pass.

        Raises:
            TechniqueError: a layer took no part in the pass.
        """
        for tap in self._taps:
            if tap not in self._tensors:
                raise TechniqueError(f"layer {tap.path!r} took no part in the forward pass; choose one that does")
        tensors = [widened(self._tensors[tap]) for tap in self._taps]
        self._tensors.clear()
        return tensors


@contextmanager
def caught(module: nn.Module, taps: Sequence[Tap]) -> Iterator[Caught]:
    """Catch the tensors at `taps`, with their gradients' history, in every forward pass inside the context.

    A part of a batch is a forward pass of its own, so it is caught by itself.

    Args:
        module: the network whose submodules the taps name; it gets hooks while the context lasts.
        taps: which tensors.
    """
    tensors = Caught(taps)
    with ExitStack() as stack:
        for tap in dict.fromkeys(taps):
            stack.enter_context(_hook(module.get_submodule(tap.path), tap, tensors))
        yield tensors


@contextmanager
def _hook(layer: nn.Module, tap: Tap, tensors: Caught) -> Iterator[None]:
    def catch(found: Tensor | None) -> None:
        if found is None:
            raise TechniqueError(f"the {tap.side} of layer {tap.path!r} is no tensor; choose another layer")
        tensors.put(tap, found)

    def catch_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        catch(_first_tensor([*args, *kwargs.values()]))

    def catch_output(_: nn.Module, __: Any, output: Any) -> None:
        catch(_first_tensor(output))

    if tap.side == "input":
        handle = layer.register_forward_pre_hook(catch_input, with_kwargs=True)
    else:
        handle = layer.register_forward_hook(catch_output)
    try:
        yield
    finally:
        handle.remove()


def layer_shapes(module: nn.Module, example: Tensor) -> list[LayerShape]:
    """Run `example` [B, *input_shape] once, and list the layers that gave a tensor with a row for each of B.

    They are in the order in which they ended, containers after what they contain; one that runs twice is listed
    where it ended last. The network as a whole and the functions that compute weights are left out.
    """
    shapes: dict[str, LayerShape] = {}

    def note(path: str, layer: nn.Module, output: Any) -> None:
        found = _first_tensor(output)
        if found is not None and found.ndim >= 2 and len(found) == len(example):
            shapes.pop(path, None)
            shapes[path] = LayerShape(path, tuple(found.shape[1:]), is_linear=isinstance(layer, nn.Linear))

    computed = {part for layer in module.modules() if parametrize.is_parametrized(layer)
                for part in layer.parametrizations.modules()}  # type: ignore[union-attr]  # fmt: skip
    was_training = module.training
    module.eval()
    with ExitStack() as stack, torch.no_grad():
        for path, layer in module.named_modules():
            if path and layer not in computed:
                handle = layer.register_forward_hook(lambda layer, _, output, path=path: note(path, layer, output))
                stack.callback(handle.remove)
        stack.callback(module.train, was_training)
        module(example)
    return list(shapes.values())


def _first_tensor(value: Any) -> Tensor | None:
    """Return the tensor itself, or the first of a tuple, list or mapping, as transformer layers give them."""
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((part for part in parts if isinstance(part, Tensor)), None)
