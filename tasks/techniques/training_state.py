"""The checkpoint of the training loop: one safetensors file that continues a run bit for bit."""

import json
import logging

import safetensors.torch
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from tasks.contracts.model import EpochRecord

logger = logging.getLogger(__name__)

_FORMAT = "stillhouse.training/1"


class TrainingState:
    """Everything that changes while training: weights, buffers, optimizer moments and random generators."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, generator: Generator, purpose: str) -> None:
        """Name the parts to save and restore.

        Args:
            module: the network in training.
            optimizer: its optimizer; all state must be tensors, as in SGD and AdamW.
            generator: the loop's own CPU generator.
            purpose: tells apart the runs whose checkpoints must not be mixed up.
        """
        self._module = module
        self._optimizer = optimizer
        self._generator = generator
        self._purpose = purpose

    def to_bytes(self, records: list[EpochRecord]) -> bytes:
        """Serialise; `records` are the epochs that are done."""
        metadata = {
            "format": _FORMAT,
            "purpose": self._purpose,
            "epoch": str(len(records)),
            "records": json.dumps([record.model_dump(mode="json") for record in records]),
        }
        tensors = self._module_tensors() | self._optimizer_tensors() | self._generator_tensors()
        # clones: safetensors refuses weights that share memory
        stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return safetensors.torch.save(stored, metadata)

    def restore(self, data: bytes | None) -> list[EpochRecord]:
        """Load a checkpoint into the parts and return the epochs that are done.

        A checkpoint that is damaged or of another run changes nothing: it is logged and the answer is
        an empty list, so that training starts anew.
        """
        if data is None:
            return []
        try:
            metadata = _metadata(data)
            self._check(metadata)
            tensors = safetensors.torch.load(data)
            records = [EpochRecord.model_validate(record) for record in json.loads(metadata["records"])]
            self._check_layout(tensors)
        except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            logger.warning("the checkpoint of %d bytes is ignored and training starts anew: %s", len(data), error)
            return []
        self._load(tensors)
        return records

    def _check(self, metadata: dict[str, str]) -> None:
        if metadata["format"] != _FORMAT:
            raise ValueError(f"its format is {metadata['format']!r} instead of {_FORMAT!r}")
        if metadata["purpose"] != self._purpose:
            raise ValueError(f"it is of the run {metadata['purpose']!r} instead of {self._purpose!r}")

    def _check_layout(self, tensors: dict[str, Tensor]) -> None:
        """Compare names, shapes and types before anything is changed."""
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in self._module_tensors().items()}
        found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items() if name.startswith("module.")}
        if expected != found:
            differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            raise ValueError(f"its weights do not fit the network, first at {differing[0]!r}")
        if missing := sorted(self._generator_tensors().keys() - tensors.keys()):
            raise ValueError(f"it lacks {missing[0]!r}")

    def _load(self, tensors: dict[str, Tensor]) -> None:
        prefix = "module."
        self._module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._generator.set_state(tensors["generator.loop"])
        torch.set_rng_state(tensors["generator.torch"])
        if "generator.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["generator.cuda"])

    def _module_tensors(self) -> dict[str, Tensor]:
        return {f"module.{name}": tensor for name, tensor in self._module.state_dict().items()}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state: dict[int, dict[str, Tensor]] = self._optimizer.state_dict()["state"]
        return {
            f"optimizer.{index}.{key}": tensor
            for index, moments in state.items()
            for key, tensor in moments.items()
            if tensor is not None
        }

    def _generator_tensors(self) -> dict[str, Tensor]:
        states = {"generator.loop": self._generator.get_state(), "generator.torch": torch.get_rng_state()}
        if next(self._module.parameters()).is_cuda:
            states["generator.cuda"] = torch.cuda.get_rng_state()
        return states


def _metadata(data: bytes) -> dict[str, str]:
    """Return the text metadata of a safetensors file: 8 bytes of length (little-endian), then JSON.

    Raises:
        ValueError: there is none.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise ValueError("it is not a checkpoint of the training loop")
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
