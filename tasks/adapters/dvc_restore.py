"""Getting `data/` back: from the remote if it has the revision, else from the data sets that Stillhouse ships."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.adapters.dvc_remote import Remote, remote_of
from tasks.adapters.dvc_repository import add_folder, fetch_folder
from tasks.contracts.errors import DataError, InfrastructureError, ServiceUnavailableError
from tasks.contracts.value import Value
from tasks.datasets.revision import folder_revision

if TYPE_CHECKING:
    from tasks.runtime.settings import Settings

_logger = logging.getLogger(__name__)

_STAGING_PREFIX = "restored-"

Materialise = Callable[[Path], None]
"""Writes the shipped data sets below the folder that it is given."""


class Transfer(Value):
    """What `add`, `push`, `pull` and `ensure_data` did."""

    revision: str
    action: Literal["added", "pushed", "pulled", "rebuilt", "nothing"]
    remote: str | None = None


def restore(settings: Settings, tracked: str | None, materialise: Materialise) -> Transfer:
    """Put the tracked revision into `data/`; without one, the shipped data sets, which are then tracked."""
    remote = remote_of(settings)
    folder = settings.project / "data"
    with _staging(settings) as staging:
        failure: ServiceUnavailableError | None = None
        try:
            may_be_kept = remote.is_there() or (settings.project / ".dvc" / "cache").is_dir()
            if tracked and may_be_kept and fetch_folder(settings.project, remote, tracked, staging):
                _publish(staging, folder)
                return Transfer(revision=tracked, action="pulled", remote=remote.shown)
        except ServiceUnavailableError as error:
            failure = error
        _rebuild(staging, tracked, remote, failure, materialise)
        _publish(staging, folder)
    return Transfer(revision=tracked or add_folder(settings.project, remote), action="rebuilt")


def _rebuild(
    staging: Path,
    tracked: str | None,
    remote: Remote,
    failure: ServiceUnavailableError | None,
    materialise: Materialise,
) -> None:
    """Write the shipped data sets to `staging`, if these are what `tracked` names."""
    shutil.rmtree(staging, ignore_errors=True)
    materialise(staging)
    rebuilt = folder_revision(staging)
    if tracked in (None, rebuilt):
        if failure is not None:
            _logger.warning("%s; data/ was rebuilt from the shipped data sets instead", failure)
        return
    if failure is not None:
        raise failure
    raise DataError(
        f"data/ cannot be restored to revision {tracked}: the remote {remote.shown} does not have it, and the "
        f"data sets that Stillhouse ships rebuild to {rebuilt}. Set STILLHOUSE_DVC_REMOTE to the remote that "
        "has it, then `stillhouse data pull`"
    )


@contextmanager
def _staging(settings: Settings) -> Iterator[Path]:
    """Give a place beside `data/`, on the same file system, that is gone afterwards; clear what a killed run left."""
    parent = settings.project / ".dvc" / "tmp"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left_over in parent.glob(f"{_STAGING_PREFIX}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=parent) as folder:
            yield Path(folder) / "data"
    except OSError as error:
        raise InfrastructureError(
            f"cannot write {settings.project / 'data'}: {error.strerror or error}; "
            "free space there or mend its permissions"
        ) from error


def _publish(staging: Path, folder: Path) -> None:
    """Let `staging` become `folder` by renaming; what was there before goes the way of the staging folder."""
    if folder.exists():
        os.rename(folder, staging.with_name("replaced"))
    os.rename(staging, folder)
