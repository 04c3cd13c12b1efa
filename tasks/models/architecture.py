"""Models without pickles: a recipe (factory, arguments, surgeries) and a file of weights.

A torch model travels as a zip with two members: `architecture.json`, the recipe below, and
`weights.safetensors`. Rebuilding calls the factory, replays the surgeries in order, and loads the
weights strictly; so a pruned network reloads anywhere and can be trained further.
"""

import importlib
import inspect
import io
import json
import typing
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from tasks.contracts.data import SpecialTokens
from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture, Surgery

P = ParamSpec("P")

_RECIPE_MEMBER = "architecture.json"
_WEIGHTS_MEMBER = "weights.safetensors"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp: equal models must give equal bytes


def surgery(function: Callable[P, nn.Module]) -> Callable[P, nn.Module]:
    """Mark a function as a surgery: it takes the module first, then JSON arguments, and returns the module.

    Only marked functions are replayed from a recipe, so a tampered file cannot call anything else.
    """
    function.__stillhouse_surgery__ = True  # type: ignore[attr-defined]
    return function


def build(architecture: Architecture) -> nn.Module:
    """Build the module of `architecture`, untrained (seed torch first if the initial weights matter).

    Raises:
        ModelError: the factory or a surgery cannot be imported, is not one, or rejects its arguments.
    """
    factory = _resolve(architecture.factory, "model factory")
    if not _returns_module(factory):
        raise ModelError(
            f"model factory {architecture.factory!r} is neither a torch.nn.Module class nor a function "
            "annotated to return one; add the return annotation `-> nn.Module`"
        )
    module = _call(factory, architecture.factory, architecture.kwargs)
    for operation in architecture.surgeries:
        function = _resolve(operation.function, "surgery")
        if not getattr(function, "__stillhouse_surgery__", False):
            raise ModelError(f"{operation.function!r} is not marked with @surgery; a recipe may only replay surgeries")
        module = _call(function, operation.function, {"module": module, **operation.arguments})
    return module


def completed(
    architecture: Architecture,
    input_shape: tuple[int, ...],
    num_outputs: int,
    vocab_size: int | None = None,
    special_tokens: SpecialTokens | None = None,
) -> Architecture:
    """Fill in what the data say where the factory takes it and the plan is silent.

    These are `input_shape` and `num_outputs`, and for texts `vocab_size` and `pad`.

    Args:
        architecture: as the plan gives it.
        input_shape: shape of one row, without the batch axis.
        num_outputs: width of the output.
        vocab_size: number of token ids; None for rows that are no texts.
        special_tokens: of the tokenizer; None for rows that are no texts.

    Raises:
        ModelError: the factory cannot be imported.
    """
    parameters = inspect.signature(_resolve(architecture.factory, "model factory")).parameters
    known = {
        "input_shape": list(input_shape),
        "num_outputs": num_outputs,
        "vocab_size": vocab_size,
        "pad": special_tokens.pad if special_tokens else None,
    }
    filled = {name: value for name, value in known.items() if name in parameters and value is not None}
    return architecture.model_copy(update={"kwargs": filled | architecture.kwargs})


@dataclass(frozen=True)
class Network:
    """A torch module together with the recipe that rebuilds it."""

    architecture: Architecture
    module: nn.Module

    @classmethod
    def create(cls, architecture: Architecture, seed: int) -> "Network":
        """Build with freshly drawn weights; the same seed gives the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(architecture, build(architecture))

    def with_surgery(self, operation: Surgery, module: nn.Module) -> "Network":
        """Return the network after `operation`, which turned this module into `module`."""
        surgeries = (*self.architecture.surgeries, operation)
        return replace(self, architecture=self.architecture.model_copy(update={"surgeries": surgeries}), module=module)

    def to_bytes(self) -> bytes:
        """Serialise to the zip that this file's head describes; equal networks give equal bytes."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module.state_dict().items()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(_RECIPE_MEMBER, _ZIP_EPOCH), self.architecture.canonical_json())
            archive.writestr(zipfile.ZipInfo(_WEIGHTS_MEMBER, _ZIP_EPOCH), safetensors.torch.save(weights))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Network":
        """Rebuild from `to_bytes`.

        Raises:
            ModelError: the bytes are not such a zip, or recipe and weights do not fit each other.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                architecture = Architecture.model_validate(json.loads(archive.read(_RECIPE_MEMBER)))
                weights = safetensors.torch.load(archive.read(_WEIGHTS_MEMBER))
        except (zipfile.BadZipFile, KeyError, ValueError, ValidationError, safetensors.SafetensorError) as error:
            raise ModelError(
                f"not a Stillhouse torch model ({error}); it must be a zip of {_RECIPE_MEMBER} and {_WEIGHTS_MEMBER}"
            ) from error
        module = build(architecture)
        try:
            module.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ModelError(f"the weights do not fit the architecture {architecture.factory!r}: {error}") from error
        return cls(architecture, module.eval())


def _resolve(path: str, role: str) -> Callable[..., Any]:
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{role} {path!r} cannot be imported ({error}); write it as 'package.module:name' "
            "and make the package importable where the stage runs"
        ) from error
    if not callable(found):
        raise ModelError(f"{role} {path!r} is a {type(found).__name__}, not a callable")
    return typing.cast(Callable[..., Any], found)


def _returns_module(factory: Callable[..., Any]) -> bool:
    if inspect.isclass(factory):
        return issubclass(factory, nn.Module)
    try:
        annotation = typing.get_type_hints(factory).get("return")
    except (NameError, TypeError):
        return False
    return inspect.isclass(annotation) and issubclass(annotation, nn.Module)


def _call(function: Callable[..., Any], path: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        given = sorted(set(arguments) - {"module"})
        raise ModelError(f"{path!r} does not take the arguments {given}: {error}") from error
    result = function(**arguments)
    if not isinstance(result, nn.Module):
        raise ModelError(f"{path!r} returned a {type(result).__name__} instead of a torch.nn.Module")
    return result
