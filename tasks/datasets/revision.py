"""DVC's content hashes, computed without importing DVC, which costs a second.

A file's hash is its MD5. A folder's hash is the MD5 of a JSON list of its files' hashes and relative
paths, sorted by path, with `.dir` appended (DVC 3, `dvc_data.hashfile.tree.Tree.as_bytes`).
MD5 names the rows as DVC does; it guards against accidents, not against forgery.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tasks.contracts.errors import DataError

_NEVER_TRACKED = {".dvc", ".git", ".hg"}  # what DVC ignores without a .dvcignore


def file_revision(path: Path) -> str:
    """Return the hash by which DVC knows the file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()
    except OSError as error:
        raise DataError(
            f"data file {path} cannot be read ({error.strerror}); correct the plan's dataset.path or put the file there"
        ) from error


def joint_revision(paths: Sequence[Path]) -> str:
    """Return the hash of one file, or of several in their order, as of a folder that holds just these.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    hashes = [file_revision(path) for path in paths]
    if len(hashes) == 1:
        return hashes[0]
    listing = [
        {"md5": md5, "relpath": f"{number}-{path.name}"}
        for number, (md5, path) in enumerate(zip(hashes, paths, strict=True))
    ]
    return _md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def folder_revision(folder: Path) -> str:
    """Return the hash by which DVC knows the folder, as long as no `.dvcignore` pattern hits one of its files.

    Raises:
        DataError: a file cannot be read.
    """
    entries = sorted((path.relative_to(folder).as_posix(), path) for path in tracked_files(folder))
    listing = [{"md5": file_revision(path), "relpath": name} for name, path in entries]
    return _md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def tracked_files(folder: Path) -> list[Path]:
    """List the files below `folder` that DVC would track."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and _NEVER_TRACKED.isdisjoint(path.relative_to(folder).parts)
    ]


def _md5(data: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(data, usedforsecurity=False)
