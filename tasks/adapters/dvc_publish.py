"""Putting a folder of files into `data/` as a new version, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.dvc import add
from tasks.adapters.dvc_restore import Transfer
from tasks.contracts.errors import InfrastructureError

if TYPE_CHECKING:
    from tasks.runtime.locking import Locks
    from tasks.runtime.settings import Settings


def publish_folder(
    settings: Settings, locks: Locks, name: str, files: Mapping[str, bytes], check: Callable[[Path], None]
) -> Transfer:
    """Write `files` to `data/<name>/` in place of what is there, and make `data/` a new version.

    The files are staged and checked outside `data/`; the folder is then exchanged by renaming. When the check or DVC
    fails, `data/` is what it was. After a kill between renaming and DVC `data/` differs from `data.dvc`, which every
    reader says with the remedy.

    Args:
        settings: where the project is.
        locks: publications take turns.
        name: of the folder, below `data/`.
        files: content by file name.
        check: looks at the staged folder, and raises if it must not be published.

    Raises:
        InfrastructureError: the folder cannot be written.
    """
    target = settings.project / "data" / name
    with locks.hold(f"publish:{target}"), _staging(settings) as staging:
        staged, replaced = staging / "new", staging / "old"
        staged.mkdir()
        for file, content in files.items():
            (staged / file).write_bytes(content)
        check(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        had_one = target.exists()
        if had_one:
            os.rename(target, replaced)
        os.rename(staged, target)
        try:
            return add(settings, locks)
        except BaseException:
            os.rename(target, staged)
            if had_one:
                os.rename(replaced, target)
            raise


@contextmanager
def _staging(settings: Settings) -> Iterator[Path]:
    """Give a place on the file system of `data/` that is gone afterwards."""
    parent = settings.project / ".dvc" / "tmp"
    folder = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="published-", dir=parent))
        yield folder
    except OSError as error:
        raise InfrastructureError(
            f"cannot write {settings.project / 'data'}: {error.strerror or error}; free space there, or "
            "mend its permissions"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
