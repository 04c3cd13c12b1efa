"""Where stages run: on this machine, or wherever a cluster has room. The flows do not know which.

A stage's task runs in the process of its flow, which holds the stage's lock and looks for its record; only what is
not cached is placed. So a cached stage takes no slot, and what travels is a call of a few kilobytes: models and data
move through the store.
"""

import os
import threading
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tasks.contracts.model import StageResult, UsageSample
from tasks.contracts.resources import NOTHING_SPECIAL, Resources
from tasks.contracts.value import Slug
from tasks.runtime.crews import run_crew
from tasks.runtime.gpus import LocalGpus
from tasks.runtime.isolation import Message, StageCall, StageProcess, make_call, outcome_of
from tasks.runtime.warm_processes import WarmProcesses

if TYPE_CHECKING:
    from tasks.runtime.locking import Locks

R = TypeVar("R")


class Placement(Protocol):
    """Runs calls somewhere, each in a process of its own."""

    def run(self, call: StageCall, on_progress: Callable[[Any], None]) -> Message:
        """Make the call and return how it ended; it waits until there is room.

        Args:
            call: What to call, and what it needs.
            on_progress: Called, in this thread, with each value that the function reports, as JSON.

        Raises:
            RunStoppedError: the run was told to stop.
            WorkerLostError: the process, or the machine that it ran on, was lost, or time was up.
        """
        ...


class LocalPlacement:
    """On this machine: as many stage processes at once as it has CPUs for their threads, and GPUs for their shares.

    Processes that train one model together are as many as it has GPUs, or CPUs, for.
    """

    def __init__(self, gpu_locks: "Locks | None" = None, warm: WarmProcesses | None = None) -> None:
        """Count what there is.

        Args:
            gpu_locks: keep the other processes of this host off a GPU that is in use.
            warm: lets all calls but the first ones start in milliseconds. Calls that measure get a fresh interpreter
                all the same, so that nothing that was inherited is measured.
        """
        self._warm = warm
        self._num_cpus = len(os.sched_getaffinity(0))
        self._gpus = LocalGpus(visible_gpus(), gpu_locks)
        self._slots = threading.BoundedSemaphore(self._num_cpus)
        self._order = threading.Lock()

    def run(self, call: StageCall, on_progress: Callable[[Any], None]) -> Message:
        """Make the call as soon as enough is free. One that measures waits for all CPUs."""
        size = self._crew_size(call)
        wanted = self._num_cpus if call.target is not None else min(size * call.num_threads, self._num_cpus)
        # GPUs first: who waits for one holds no CPU, and who has CPUs waits for nothing
        with self._gpus.taken(call.resources.num_gpus, size, call.function) as devices, self._cpus(wanted):
            if size > 1:
                return run_crew(call, size, devices, on_progress)
            warm = None if call.target is not None else self._warm
            return StageProcess(call, {"CUDA_VISIBLE_DEVICES": devices[0]} if devices else None, warm).run(on_progress)

    @contextmanager
    def _cpus(self, wanted: int) -> Iterator[None]:
        with self._order:  # so that of two wide stages neither holds half
            for _ in range(wanted):
                self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release(wanted)

    def _crew_size(self, call: StageCall) -> int:
        """Return how many processes run the call: all that it asks for, or what there is room for."""
        if call.resources.num_gpus > 0 and (room := self._gpus.room(call.resources.num_gpus)):
            return min(call.resources.num_workers, room)
        return min(call.resources.num_workers, max(1, self._num_cpus // call.num_threads))


def visible_gpus(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the CUDA devices that this process may use, without loading CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    return [str(number) for number, _ in enumerate(drivers.iterdir())] if drivers.is_dir() else []


def run_placed(
    placement: Placement,
    function: Callable[..., R],
    *,
    resources: Resources = NOTHING_SPECIAL,
    num_threads: int = 1,
    target: Slug | None = None,
    modules: Iterable[str] = (),
    on_progress: Callable[[Any], None] = lambda _: None,
    **arguments: Any,
) -> R:
    """Call a module-level, fully annotated function in a process of its own and return what it returns.

    Args:
        placement: Where.
        function: Its annotations say how arguments and result travel as JSON.
        resources: What the machine must offer, and the wall time after which the process is killed.
        num_threads: Threads of OpenMP, MKL and torch in the process.
        target: The kind of machine that the function measures; nothing else runs there meanwhile.
        modules: What the stage executes besides the function's own module.
        on_progress: Called with each value that the function gave to `report_progress`.
        **arguments: Passed by name.

    Raises:
        StillhouseError: of the class that the function raised.
        RunStoppedError: the run was told to stop.
        OutOfMemoryError: it ran out of memory.
        WorkerLostError: the process was killed or timed out, or its machine was lost.
        StageFailedError: it raised anything else; the message ends with the traceback.
    """
    call = make_call(function, arguments, resources=resources, num_threads=num_threads, target=target, modules=modules)
    message = placement.run(call, on_progress)
    return _with_usage(outcome_of(function, message), message)


def _with_usage(made: R, message: Message) -> R:
    """Keep with a stage's result what it used, so that it is in its record and found by whoever takes it from there."""
    if not isinstance(made, StageResult):
        return made
    usage = tuple(UsageSample.model_validate(sample) for sample in message.get("usage", ()))
    return typing.cast(R, made.model_copy(update={"usage": usage}))
