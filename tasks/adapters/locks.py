"""Locks on one host by `flock`: the kernel releases them when their holder dies, however it dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tasks.contracts.errors import LockTakenError
from tasks.contracts.value import sha256_hex

_POLL_S = 0.05


class FileLock:
    """See `tasks.runtime.locking.Lock`. It cannot be lost while its holder lives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def is_lost(self) -> bool:
        """See `Lock.is_lost`."""
        return False

    def require(self) -> None:
        """See `Lock.require`."""

    def release(self) -> None:
        """See `Lock.release`. The file stays: removing it would let two holders in."""
        os.close(self._descriptor)


class FileLocks:
    """See `tasks.runtime.locking.Locks`. A lock per name, each a file in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def dead_after_s(self) -> float:
        """See `Locks.dead_after_s`."""
        return 0.0

    def hold(self, name: str, *, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """See `Locks.hold`."""
        return self._hold(name, timeout_s)

    @contextmanager
    def _hold(self, name: str, timeout_s: float | None) -> Iterator[None]:
        lock = self.acquire(name, timeout_s=timeout_s)
        try:
            yield
        finally:
            lock.release()

    def acquire(self, name: str, *, timeout_s: float | None = None) -> FileLock:
        """See `Locks.acquire`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{sha256_hex(name.encode())[:40]}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if timeout_s is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                _lock_within(descriptor, timeout_s, f"lock {name!r} ({path})")
        except BaseException:
            os.close(descriptor)
            raise
        return FileLock(descriptor)

    def is_taken(self, name: str) -> bool:
        """See `Locks.is_taken`."""
        try:
            self.acquire(name, timeout_s=0).release()
        except LockTakenError:
            return True
        return False


def _lock_within(descriptor: int, timeout_s: float, what: str) -> None:
    """Try until `timeout_s` is over; `flock` itself waits for ever or not at all."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LockTakenError(
                    f"{what} is held by another process of this host, and {timeout_s:g} s of waiting did not end "
                    "that; try again, or end that process (`fuser` on the file names it)"
                ) from None
            time.sleep(min(_POLL_S, left_s))
        else:
            return
