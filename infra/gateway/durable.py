"""Writing files that readers see whole or not at all, even after a crash."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, over whatever is there."""
    _stage(path, data, lambda staged: os.replace(staged, path))


def publish_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, which must be free.

    Raises:
        FileExistsError: something is there already.
    """
    _stage(path, data, lambda staged: os.link(staged, path))


def _stage(path: Path, data: bytes, place: Callable[[str], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, staged = tempfile.mkstemp(prefix=".staged-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, 0o644)  # mkstemp gives 0600; the log's readers may be another user
        place(staged)
    finally:
        Path(staged).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
