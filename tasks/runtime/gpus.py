"""The GPUs of one machine, handed out to stages: never more of one than there is.

A cluster counts its GPUs itself; this is for stages that run on the machine of their flow. A GPU is one run's at a
time, by a lock among the processes of the host, so that two workers that see the same one do not share it; the run's
own stages may share it, by the parts of it that they ask for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.contracts.errors import LockTakenError
from tasks.runtime.isolation import require_run_goes_on

if TYPE_CHECKING:
    from tasks.runtime.locking import Lock, Locks

_LOOK_S = 0.5
"""How often a stage asks whether another run has given a GPU back."""
_WHOLE = 1.0
_ROUNDING = 1e-9


class LocalGpus:
    """The GPUs that this process may use."""

    def __init__(self, devices: list[str], locks: Locks | None = None) -> None:
        """Take charge of CUDA devices, by the names that CUDA_VISIBLE_DEVICES knows.

        Args:
            devices: none on a machine without GPUs, where everything that asks for one does without.
            locks: among the processes of this host; None where no other uses these devices.
        """
        self._locks = locks
        self._free = dict.fromkeys(devices, _WHOLE)
        self._held: dict[str, Lock] = {}
        self._changed = threading.Condition()

    def room(self, share: float) -> int:
        """Return how many processes at most can have `share` GPUs each."""
        if share >= _WHOLE:
            return len(self._free) // math.ceil(share)
        return len(self._free)  # a process of a crew has its own device, however little of it

    @contextmanager
    def taken(self, share: float, size: int, name: str) -> Iterator[list[str]]:
        """Wait for GPUs, and have them for the length of the block.

        Args:
            share: GPUs of each process: a part of one, or whole ones, rounded up; more than there are is all.
            size: how many processes.
            name: of what waits, for errors.

        Yields:
            what each process is to see, as CUDA_VISIBLE_DEVICES; empty where nothing is asked for, or there is none.

        Raises:
            RunStoppedError: the run was told to stop meanwhile.
        """
        if share <= 0 or not self._free:
            yield []
            return
        each = min(math.ceil(share), len(self._free))
        part = min(share, _WHOLE)
        mine = self._wait(min(each * size, len(self._free)), part, name)
        try:
            yield [",".join(mine[start : start + each]) for start in range(0, len(mine), each)]
        finally:
            self._give_back(mine, part)

    def _wait(self, number: int, part: float, name: str) -> list[str]:
        with self._changed:
            while True:
                require_run_goes_on(name)
                mine = self._try(number, part)
                if mine is not None:
                    return mine
                self._changed.wait(_LOOK_S)

    def _try(self, number: int, part: float) -> list[str] | None:
        """Take that many devices, or none; the emptiest first."""
        mine: list[str] = []
        for device in sorted(self._free, key=lambda one: -self._free[one]):
            if len(mine) < number and self._free[device] + _ROUNDING >= part and self._is_ours(device):
                self._free[device] -= part
                mine.append(device)
        if len(mine) == number:
            return sorted(mine)
        self._put(mine, part)
        return None

    def _is_ours(self, device: str) -> bool:
        """Make sure that no other process of the host has the device."""
        if self._locks is not None and device not in self._held:
            try:
                self._held[device] = self._locks.acquire(f"gpu/{device}", timeout_s=0)
            except LockTakenError:
                return False
        return True

    def _give_back(self, mine: list[str], part: float) -> None:
        with self._changed:
            self._put(mine, part)
            self._changed.notify_all()

    def _put(self, mine: list[str], part: float) -> None:
        for device in mine:
            self._free[device] += part
            if self._free[device] + _ROUNDING >= _WHOLE and device in self._held:
                self._free[device] = _WHOLE
                self._held.pop(device).release()
