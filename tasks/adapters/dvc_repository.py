"""What is asked of DVC itself, which costs a second to import: add, push, fetch, and what it thinks of `data/`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters.dvc_remote import Remote
from tasks.adapters.local_store import write_atomically
from tasks.contracts.errors import ServiceUnavailableError
from tasks.datasets.revision import folder_revision

if TYPE_CHECKING:
    from dvc.repo import Repo

_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"
_IGNORED_BY_GIT = "/config.local\n/tmp\n/cache\n"
_DVCIGNORE = "# Patterns of files that DVC does not track, as in .gitignore: https://dvc.org/doc/user-guide/dvcignore\n"


def initialise(project: Path) -> None:
    """Write what DVC needs to know a project by, where it is not there yet: `dvc init` without its questions."""
    git = (project / ".git").exists()
    files = {
        ".dvc/config": _CONFIG if git else f"{_CONFIG}    no_scm = true\n",
        ".dvc/.gitignore": _IGNORED_BY_GIT,
        ".dvcignore": _DVCIGNORE,
    }
    for name, text in files.items():
        if not (project / name).exists():
            write_atomically(project / name, text.encode())


def is_changed(project: Path, remote: Remote) -> bool:
    """Tell whether `data/` differs from `data.dvc` by DVC's own judgement, which heeds `.dvcignore`."""
    with _opened(project, remote) as repo:
        return bool(repo.status(targets=[str(project / "data.dvc")]))


def add_folder(project: Path, remote: Remote) -> str:
    """Copy `data/` into DVC's cache, write `data.dvc`, and return the revision."""
    initialise(project)
    with _opened(project, remote) as repo:
        (stage,) = repo.add(str(project / "data"))
        return str(stage.outs[0].hash_info.value)


def push_folder(project: Path, remote: Remote) -> None:
    """Copy the revision of `data.dvc` from DVC's cache to the remote.

    Raises:
        ServiceUnavailableError: the remote does not answer or refuses.
    """
    with _opened(project, remote) as repo, remote.errors("push to"):
        repo.push(targets=[str(project / "data.dvc")])


def is_pushed(project: Path, remote: Remote, revision: str) -> bool:
    """Tell whether the remote has `revision`; DVC uploads a folder's listing after all of its files.

    Raises:
        ServiceUnavailableError: the remote does not answer.
    """
    with _opened(project, remote) as repo, remote.errors("look into"):
        return bool(repo.cloud.get_remote_odb().exists(revision))


def fetch_folder(project: Path, remote: Remote, revision: str, target: Path) -> bool:
    """Copy `revision` of `data/` into the new folder `target`; tell whether DVC's cache or the remote had all of it.

    Raises:
        ServiceUnavailableError: the remote does not answer, or the files are damaged.
    """
    with _opened(project, remote) as repo:
        if not _copy_from_cache(repo, revision, target):
            if not remote.is_there():
                return False
            with remote.errors("pull from"):
                repo.fetch(targets=[str(project / "data.dvc")])
            if not _copy_from_cache(repo, revision, target):
                return False
    found = folder_revision(target)
    if found != revision:
        raise ServiceUnavailableError(
            f"the files of revision {revision} are damaged: together they are {found}. Remove {project / '.dvc/cache'} "
            f"and pull again; if that does not help, the remote {remote.shown} is damaged: push again from a checkout "
            "that has the rows"
        )
    return True


def _copy_from_cache(repo: Repo, revision: str, target: Path) -> bool:
    listing = Path(repo.cache.local.oid_to_path(revision))
    if not listing.is_file():
        return False
    for entry in json.loads(listing.read_text(encoding="utf-8")):
        cached, place = Path(repo.cache.local.oid_to_path(entry["md5"])), target / entry["relpath"]
        if not cached.is_file():
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached, place)
    return True


@contextmanager
def _opened(project: Path, remote: Remote) -> Iterator[Repo]:
    """Open the project's DVC repository with `remote` as its default one."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.repo import Repo

    initialise(project)
    config: dict[str, Any] = {
        "core": {
            "no_scm": True,  # Git is the user's affair: works the same in a checkout, a worktree and a plain folder
            "site_cache_dir": str(project / ".dvc" / "tmp" / "site"),
        }
    }
    with Repo(str(project), config=remote.configure(config)) as repo:
        yield repo
