"""DVC: the folder `data/`, its version in `data.dvc`, and the remote that holds every version.

DVC itself is imported only when rows have to be moved or a difference confirmed; that `data/` is what
`data.dvc` says is proved by `folder_revision` in milliseconds. `data/` is replaced by renaming a
finished folder, so that a restore that is cut leaves nothing partial there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from tasks.adapters.dvc_remote import Remote, remote_of
from tasks.adapters.dvc_repository import add_folder, is_changed, is_pushed, push_folder
from tasks.adapters.dvc_restore import Materialise, Transfer, restore
from tasks.contracts.errors import DataError
from tasks.contracts.value import Value
from tasks.datasets.revision import folder_revision, tracked_files

if TYPE_CHECKING:
    from tasks.runtime.locking import Locks
    from tasks.runtime.settings import Settings


class DataStatus(Value):
    """How `data/` stands to `data.dvc`, and `data.dvc` to the remote."""

    state: Literal["equal", "modified", "missing", "untracked"]
    tracked: str | None
    """Revision in `data.dvc`."""
    present: str | None
    """Revision of the folder as it is; None if it is missing."""
    num_files: int
    size_bytes: int
    remote: str
    remote_has_it: bool | None = None
    """Whether the remote holds the tracked revision; None if that was not asked."""


def tracked_revision(project: Path) -> str | None:
    """Return the revision in `data.dvc`, or None if `data/` is not tracked.

    Raises:
        DataError: the file is not one that DVC writes.
    """
    path = project / "data.dvc"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        (output,) = document["outs"]
        revision = output["md5"]
    except FileNotFoundError:
        return None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is not a DVC file with one output ({error!r}); restore it from version control"
        ) from error
    if not isinstance(revision, str) or not revision.endswith(".dir"):
        raise DataError(
            f"{path} names the revision {revision!r}, which is no folder's; restore it from version control"
        )
    return revision


def status(settings: Settings, *, ask_remote: bool = False) -> DataStatus:
    """Compare `data/` with `data.dvc` and, if asked, `data.dvc` with the remote.

    Raises:
        ServiceUnavailableError: the remote was asked and does not answer.
    """
    project, folder = settings.project, settings.project / "data"
    tracked = tracked_revision(project)
    files = tracked_files(folder)
    remote = remote_of(settings)
    return DataStatus(
        state=_state(settings, tracked),
        tracked=tracked,
        present=folder_revision(folder) if folder.is_dir() else None,
        num_files=len(files),
        size_bytes=sum(path.stat().st_size for path in files),
        remote=remote.shown,
        remote_has_it=_remote_has(settings, remote, tracked) if ask_remote and tracked else None,
    )


def ensure_data(settings: Settings, locks: Locks, materialise: Materialise) -> str:
    """Make `data/` what `data.dvc` says, and return that revision.

    Equal: nothing is done. Missing: pulled from the remote, or rebuilt from the shipped data sets if
    the remote does not have it. A project without `data.dvc` and `data/` gets both.

    Raises:
        DataError: `data/` differs from `data.dvc` or is not tracked, or cannot be restored.
        ServiceUnavailableError: only the remote can have the rows, and it does not answer.
    """
    tracked = tracked_revision(settings.project)
    if _state(settings, tracked) == "missing":
        with locks.hold(_lock_name(settings)):
            tracked = tracked_revision(settings.project)
            if _state(settings, tracked) == "missing":
                return restore(settings, tracked, materialise).revision
    return _accepted(settings, tracked)


def pull(settings: Settings, locks: Locks, materialise: Materialise, *, force: bool = False) -> Transfer:
    """Get the tracked rows: from the remote, or rebuilt if they are the shipped ones and the remote lacks them.

    Raises:
        DataError: `data/` was changed and `force` is False; there is no `data.dvc`; or the rows are nowhere.
        ServiceUnavailableError: only the remote can have the rows, and it does not answer.
    """
    with locks.hold(_lock_name(settings)):
        tracked = tracked_revision(settings.project)
        if tracked is None:
            raise DataError(f"{settings.project / 'data.dvc'} is missing; `stillhouse data add` starts to track data/")
        if not force and _state(settings, tracked) != "missing":
            return Transfer(revision=_accepted(settings, tracked), action="nothing")
        if _state(settings, tracked) == "equal":
            return Transfer(revision=tracked, action="nothing")
        return restore(settings, tracked, materialise)


def add(settings: Settings, locks: Locks) -> Transfer:
    """Make `data/` as it is a new version: its files go to DVC's cache and its revision into `data.dvc`.

    Raises:
        DataError: `data/` is missing or empty.
    """
    folder = settings.project / "data"
    if not folder.is_dir() or not tracked_files(folder):
        raise DataError(
            f"{folder} is missing or empty; put files there first, or get the tracked ones: `stillhouse data pull`"
        )
    with locks.hold(_lock_name(settings)):
        before = tracked_revision(settings.project)
        after = add_folder(settings.project, remote_of(settings))
    return Transfer(revision=after, action="nothing" if after == before else "added")


def push(settings: Settings, locks: Locks) -> Transfer:
    """Copy the tracked revision to the remote.

    Raises:
        DataError: `data/` is not what `data.dvc` says.
        ServiceUnavailableError: the remote does not answer or refuses.
    """
    with locks.hold(_lock_name(settings)):
        tracked = tracked_revision(settings.project)
        if tracked is None or _state(settings, tracked) == "missing":
            raise DataError(
                f"there is nothing to push: {settings.project} has no data/ with a data.dvc; "
                "`stillhouse data pull` or `stillhouse data add` first"
            )
        revision = _accepted(settings, tracked)
        remote = remote_of(settings)
        add_folder(settings.project, remote)  # a rebuilt data/ is not in DVC's cache yet
        push_folder(settings.project, remote)
    return Transfer(revision=revision, action="pushed", remote=remote.shown)


def _lock_name(settings: Settings) -> str:
    return f"data:{settings.project}"


def _state(settings: Settings, tracked: str | None) -> Literal["equal", "modified", "missing", "untracked"]:
    folder = settings.project / "data"
    if not folder.is_dir():
        return "missing"
    if tracked is None:
        return "untracked"
    if folder_revision(folder) == tracked or not is_changed(settings.project, remote_of(settings)):
        return "equal"
    return "modified"


def _accepted(settings: Settings, tracked: str | None) -> str:
    state = _state(settings, tracked)
    folder = settings.project / "data"
    if state == "equal":
        assert tracked is not None
        return tracked
    if state == "untracked":
        raise DataError(f"{folder} has no data.dvc beside it, so its version has no name; run `stillhouse data add`")
    raise DataError(
        f"{folder} (revision {folder_revision(folder)}) differs from data.dvc ({tracked}). To make the change a new "
        "version: `stillhouse data add`. To get the tracked rows back instead: `stillhouse data pull --force`"
    )


def _remote_has(settings: Settings, remote: Remote, tracked: str) -> bool:
    return remote.is_there() and is_pushed(settings.project, remote, tracked)
