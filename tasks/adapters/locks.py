"""Locks on one host by `flock`: the kernel releases them when their holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tasks.contracts.value import sha256_hex


class FileLocks:
    """A lock per name, each a file in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Wait for the lock called `name` and hold it for the length of a `with` block.

        Raises:
            BlockingIOError: at the block's begin, if `wait` is False and another holds it.
        """
        return self._hold(name, wait)

    @contextmanager
    def _hold(self, name: str, wait: bool) -> Iterator[None]:
        descriptor = self.acquire(name, wait=wait)
        try:
            yield
        finally:
            self.release(descriptor)

    def acquire(self, name: str, *, wait: bool = True) -> int:
        """Take the lock and return its descriptor, for `release`.

        Raises:
            BlockingIOError: `wait` is False and another holds it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{sha256_hex(name.encode())[:40]}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def release(self, descriptor: int) -> None:
        """Give the lock back. The file stays: removing it would let two holders in."""
        os.close(descriptor)
