"""Whole blocks of a network that can be left out: which they are, what each is worth, and how they go."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.contracts.errors import ModelError, TechniqueError
from tasks.models.architecture import surgery
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import Batch, Loss

_CONTAINERS = (nn.Sequential, nn.ModuleList)
_BATCH = 256


class Bypass(nn.Module):
    """Stands where a block was: returns its first argument and takes whatever else the block took."""

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """Return `x`."""
        return x


@surgery
def drop_layers(module: nn.Module, layers: list[str]) -> nn.Module:
    """Put a `Bypass` in the place of each named module; the paths of all others stay what they were.

    Args:
        module: the network; it is changed in place.
        layers: paths of modules.

    Returns:
        `module`.

    Raises:
        ModelError: the network has no such module.
    """
    for path in layers:
        try:
            module.set_submodule(path, Bypass(), strict=True)
        except (AttributeError, ValueError) as error:
            raise ModelError(f"drop_layers: the network has no module {path!r} to leave out ({error})") from error
    return module


def removable_blocks(
    module: nn.Module, example: Tensor, targets: Sequence[str] = ("*",), ignore: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the paths of the blocks that can be left out, in the network's order.

    These are the elements of a `Sequential` or `ModuleList` that have modules and parameters of their
    own, are called once, and return a tensor of the shape that they take. Of blocks inside one another
    the outermost counts; a container is no block, but its elements may be.

    Args:
        module: the network; it is not changed.
        example: [B, *input_shape].
        targets: globs of paths; no other block goes.
        ignore: globs of paths of blocks that stay.

    Raises:
        TechniqueError: there is none.
    """
    shapes = _shapes(module, example)
    keeping = {path for path, calls in shapes.items() if len(calls) == 1 and calls[0]}
    found = [path for path in _outermost(module, keeping) if any(fnmatchcase(path, glob) for glob in targets)]
    blocks = tuple(path for path in found if not any(fnmatchcase(path, glob) for glob in ignore))
    if not blocks:
        raise TechniqueError(
            f"{type(module).__name__} has no block to leave out: an element of a Sequential or ModuleList that "
            f"returns a tensor of the shape that it takes, matched by targets {list(targets)} and not by ignore "
            f"{list(ignore)}; without these globs there are {', '.join(_outermost(module, keeping)) or 'none'}"
        )
    return blocks


def block_harms(
    module: nn.Module, blocks: Sequence[str], inputs: Tensor, labels_N: Tensor, loss: Loss
) -> dict[str, float]:
    """Return the loss of the network without each of the blocks.

    Args:
        module: the network; it is left as it is.
        blocks: paths of blocks.
        inputs: [N, *input_shape].
        labels_N: their labels.
        loss: as in training.
    """
    spare = copy.deepcopy(module).to(inputs.device).eval()
    batch = Batch(inputs, labels_N, torch.arange(len(labels_N), device=labels_N.device))
    harms = {}
    for path in blocks:
        with _without(spare, path):
            harms[path] = float(loss(outputs_of(spare, inputs, _BATCH), batch))
    return harms


def block_influences(module: nn.Module, blocks: Sequence[str], inputs: Tensor) -> dict[str, float]:
    """Return 1 - cos(input, output) of each block, the mean over the rows (Men et al. 2024, arXiv:2403.03853).

    Args:
        module: the network; it is left as it is.
        blocks: paths of blocks.
        inputs: [N, *input_shape].
    """
    spare = copy.deepcopy(module).to(inputs.device).eval()
    sums = dict.fromkeys(blocks, 0.0)

    def add(path: str, _: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
        cosines_B = functional.cosine_similarity(given[0].flatten(1).double(), returned.flatten(1).double())
        sums[path] += float((1 - cosines_B).sum())

    for path in blocks:
        spare.get_submodule(path).register_forward_hook(partial(add, path))
    outputs_of(spare, inputs, _BATCH)
    return {path: total / len(inputs) for path, total in sums.items()}


@contextmanager
def _without(module: nn.Module, path: str) -> Iterator[None]:
    block = module.get_submodule(path)
    module.set_submodule(path, Bypass())
    try:
        yield
    finally:
        module.set_submodule(path, block)


def _shapes(module: nn.Module, example: Tensor) -> Mapping[str, list[bool]]:
    """Return, for every module, whether each of its calls keeps shape and type."""
    spare = copy.deepcopy(module).eval()
    calls: dict[str, list[bool]] = {}

    def record(path: str, _: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        tensors = given and isinstance(given[0], Tensor) and isinstance(returned, Tensor)
        keeps = bool(tensors) and given[0].shape == returned.shape and given[0].dtype == returned.dtype
        calls.setdefault(path, []).append(keeps)

    for path, part in spare.named_modules():
        part.register_forward_hook(partial(record, path))
    outputs_of(spare, example, len(example))
    return calls


def _outermost(module: nn.Module, keeping: set[str], prefix: str = "") -> list[str]:
    blocks: list[str] = []
    for name, part in module.named_children():
        path = f"{prefix}{name}"
        is_block = isinstance(module, _CONTAINERS) and path in keeping and _is_composite(part)
        inner = _outermost(part, keeping, f"{path}.")
        blocks += [path] if is_block and not (inner and type(part) in _CONTAINERS) else inner
    return blocks


def _is_composite(part: nn.Module) -> bool:
    return any(True for _ in part.children()) and any(True for _ in part.parameters())
