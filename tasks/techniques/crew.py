"""Several processes that train one model together: each computes its share of every batch, all make the same step.

A batch is divided into a fixed number of shards, whoever computes them. A shard starts from the step's own buffers and
random state, gradients are added up over all shards, and what the shards did to the buffers (the running statistics of
batch norm) is averaged. So the outcome depends on the number of shards, which is part of the stage's spec, and not on
the number of processes: after a loss, fewer of them go on from the checkpoint to the same model, apart from rounding.

All processes run the whole stage alike; they only share the work of its training steps. `torch.nn.parallel`'s
DistributedDataParallel is not used, since it wraps the network and averages over processes instead of rows; its
overlap of communication and computation is given up for that.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from tasks.contracts.errors import WorkerLostError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

_PATIENCE = timedelta(minutes=10)
"""How long one process waits for the others; a stage's teacher may take one of them longer than another."""


@dataclass(frozen=True)
class Crew:
    """The processes that train together, and which of them this is. Alone by default."""

    rank: int = 0
    size: int = 1
    num_shards: int = 1
    """Parts of every batch; at least `size`."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that stores what all of them compute."""
        return self.rank == 0

    def own(self, shards: Sequence[T]) -> list[tuple[int, T]]:
        """Return this process's shards of a batch, with their positions."""
        return list(enumerate(shards))[self.rank :: self.size]

    def add_up(self, tensors: Sequence["Tensor"]) -> None:
        """Replace every tensor by its sum over the processes; they must agree in number, shapes and types."""
        if self.size > 1:
            from torch import distributed

            _reduce(tensors, distributed.ReduceOp.SUM)

    def take_largest(self, tensors: Sequence["Tensor"]) -> None:
        """Replace every tensor by its largest values over the processes."""
        if self.size > 1:
            from torch import distributed

            _reduce(tensors, distributed.ReduceOp.MAX)

    def add_up_gradients(self, parameters: Sequence["nn.Parameter"]) -> None:
        """Add the gradients up; a parameter that no process has a gradient of keeps none, so that no step moves it."""
        if self.size == 1:
            return
        import torch

        present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        self.add_up([present])
        used = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.add_up([p.grad for p in used if p.grad is not None])

    def require_same(self, digest: str) -> None:
        """Check that all processes made the same, whose digest (hexadecimal) is given.

        Raises:
            WorkerLostError: they did not; a retry goes on from the last checkpoint.
        """
        if self.size == 1:
            return
        import torch

        own = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.int64)
        largest, smallest = own.clone(), -own
        self.take_largest([largest, smallest])
        if not torch.equal(largest, -smallest):
            raise WorkerLostError(
                f"{self.size} processes that trained one model ended with different ones; are their processors, "
                "drivers and versions of torch the same?"
            )


@contextmanager
def joined_crew(num_shards: int) -> Iterator[Crew]:
    """Join the processes that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT name; alone where they are not set.

    Raises:
        WorkerLostError: another process of the crew did not come, or was lost meanwhile.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if num_shards == 1 or size == 1:
        yield Crew(num_shards=num_shards)
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
        yield Crew(distributed.get_rank(), size, num_shards)
    except (distributed.DistError, RuntimeError) as error:
        if not _is_of_the_network(error):
            raise
        raise WorkerLostError(f"a process that trained along was lost: {error}") from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


class ShardedState:
    """The buffers and the random state of a network while the shards of one step are computed one after another."""

    def __init__(self, module: "nn.Module", crew: Crew, seed: int) -> None:
        """Note where the step starts.

        Args:
            module: the network.
            crew: who computes the shards.
            seed: of this step; equal in all processes.
        """
        self._averaged = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self._counted = [buffer for buffer in module.buffers() if not buffer.is_floating_point()]
        self._crew, self._seed = crew, seed
        self._start = [buffer.clone() for buffer in (*self._averaged, *self._counted)]
        self._sums = [buffer.new_zeros(buffer.shape) for buffer in self._averaged]
        self._most = [buffer.clone() for buffer in self._counted]

    @contextmanager
    def shard(self, position: int) -> Iterator[None]:
        """Compute the shard at `position` from the step's start."""
        import torch

        for buffer, start in zip((*self._averaged, *self._counted), self._start, strict=True):
            buffer.copy_(start)
        torch.manual_seed((self._seed * 1_000_003 + position) % 2**63)
        yield
        for total, buffer in zip(self._sums, self._averaged, strict=True):
            total += buffer
        for most, buffer in zip(self._most, self._counted, strict=True):
            torch.maximum(most, buffer, out=most)

    def finish(self, num_shards: int) -> None:
        """Give the buffers what all `num_shards` shards, wherever computed, made of them."""
        self._crew.add_up(self._sums)
        self._crew.take_largest(self._most)
        for buffer, total in zip(self._averaged, self._sums, strict=True):
            buffer.copy_(total / num_shards)
        for buffer, most in zip(self._counted, self._most, strict=True):
            buffer.copy_(most)


def _reduce(tensors: Sequence["Tensor"], operation: object) -> None:
    """All-reduce in place, in one message for each type and device."""
    import torch
    from torch import distributed

    groups: dict[tuple[object, object], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        message = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        distributed.all_reduce(message, op=operation)
        position = 0
        for tensor in group:
            tensor.detach().copy_(message[position : position + tensor.numel()].reshape(tensor.shape))
            position += tensor.numel()


def _is_of_the_network(error: Exception) -> bool:
    """Tell a lost peer from a defect; gloo reports both by RuntimeError."""
    from torch import distributed

    words = ("connection", "timed out", "timeout", "socket", "peer", "gloo", "nccl", "store")
    return isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in words)
