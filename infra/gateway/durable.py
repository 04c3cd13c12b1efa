"""Writing files that readers see whole or not at all, even after a crash."""

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

STAGED = ".staged-"
"""How the names of files begin that are being written. One that was killed meanwhile leaves its file behind."""
ABANDONED_AFTER_S = 3600.0
"""Nothing that a living gateway needs stays untouched for so long: it writes in moments, and renews in seconds."""

logger = logging.getLogger(__name__)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, over whatever is there.

    Raises:
        OSError: it could not be put there, and what was there still is.
    """
    _stage(path, data, lambda staged: os.replace(staged, path))


def publish_file(path: Path, data: bytes) -> bool:
    """Put `data` at `path`; return False, and change nothing, if something is there already.

    Raises:
        OSError: it could not be put there, and is not there.
    """
    try:
        _stage(path, data, lambda staged: _link(staged, path))
    except FileExistsError:
        return False
    return True


def remove_abandoned(paths: Iterable[Path]) -> int:
    """Remove those of the files that nobody has touched for an hour, and return how many.

    Raises:
        OSError: a file cannot be looked at or removed.
    """
    oldest, removed = time.time() - ABANDONED_AFTER_S, 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another gateway was first
            if path.stat().st_mtime < oldest:
                path.unlink()
                removed += 1
    return removed


def _stage(path: Path, data: bytes, place: Callable[[str], None]) -> None:
    _make_folder(path.parent)
    handle, staged = tempfile.mkstemp(prefix=STAGED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, 0o644)  # mkstemp gives 0600; the log's readers may be another user
        place(staged)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    try:
        Path(staged).unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:  # the file is in its place: who is told otherwise would write it twice
        logger.error("%s is written, and may not outlast a power failure: %s", path, error)


def _link(staged: str, path: Path) -> None:
    """Link, and know a link whose success was not heard of, as may happen on a network file system."""
    try:
        os.link(staged, path)
    except OSError:
        if not (path.exists() and path.samefile(staged)):
            raise


def _make_folder(folder: Path) -> None:
    """Make the folder and what is missing above it, each so that it outlasts a power failure."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        try:
            one.mkdir(exist_ok=True)  # another writer may be making it too
        except FileExistsError:
            raise NotADirectoryError(f"{one} is a file where a folder has to be; move it away") from None
        _sync_folder(one.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
