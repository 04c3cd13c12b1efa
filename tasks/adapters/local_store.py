"""The artifact, document and checkpoint stores on a local (or shared POSIX) folder."""

import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tasks.contracts.artifact import (
    FRESH_FOR_S,
    ArtifactRef,
    acknowledgement_folder,
    artifact_key,
    checked_document_name,
    checkpoint_key,
    document_key,
    record_key,
)
from tasks.contracts.compression import StoreCompression, original_form, stored_form
from tasks.contracts.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    DocumentConflictError,
    InfrastructureError,
)
from tasks.contracts.value import Digest, sha256_hex
from tasks.runtime.stores import Document, StoredFile

_VERSION_FILE = re.compile(r"^(\d{8})\.json$")


@contextmanager
def _storage_errors(what: str, path: Path) -> Iterator[None]:
    """Turn an operating-system error into one that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        raise InfrastructureError(
            f"cannot write {what} to {path}: {error.strerror or error}. "
            "Free space there or set STILLHOUSE_STORE to a folder with room and write permission."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new, even after power loss."""
    with _staged(path, data) as staged:
        os.replace(staged, path)
    sync_folder(path.parent)


@contextmanager
def _staged(path: Path, data: bytes) -> Iterator[Path]:
    """Write `data` to a temporary file beside `path` and remove it at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".staged-{uuid.uuid4().hex}")
    # unlike a temporary file of the standard library, the file gets the mode that the user's umask asks for
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make what was renamed, linked or removed in a folder last through power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_young(path: Path) -> bool:
    """Give a file the time of now if its own is half a day back; return whether it is there."""
    try:
        if path.stat().st_mtime < time.time() - FRESH_FOR_S:
            os.utime(path)
    except FileNotFoundError:
        return False
    return True


class LocalArtifacts:
    """Content-addressed blobs as files named by their SHA-256, compressed if wished; either form is read."""

    def __init__(self, root: Path, compression: StoreCompression = "none") -> None:
        self._root = root
        self._compression = compression

    def put(self, data: bytes) -> ArtifactRef:
        """See `ArtifactStore.put`."""
        digest = sha256_hex(data)
        path = self._root / artifact_key(digest)
        if not (self.contains(digest) and _make_young(path)):
            with _storage_errors(f"artifact {digest[:12]} ({len(data)} bytes)", path.parent):
                write_atomically(path, stored_form(data, self._compression))
        return ArtifactRef(digest=digest, size_bytes=len(data))

    def get(self, digest: Digest) -> bytes:
        """See `ArtifactStore.get`."""
        path = self._root / artifact_key(digest)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactMissingError(
                f"no artifact {digest} in the store {self._root}; run the plan again to make it, "
                "or point STILLHOUSE_STORE to the store that holds it"
            ) from None
        data = original_form(stored, digest)
        if data is None:
            raise ArtifactCorruptError(
                f"artifact {digest} in the store {self._root} is damaged: its {len(stored)} stored bytes have the "
                f"digest {sha256_hex(stored)} and do not unpack to it; run the plan again, which computes it anew"
            )
        return data

    def contains(self, digest: Digest) -> bool:
        """See `ArtifactStore.contains`. Reads the whole blob: a truncated file is not a hit."""
        path = self._root / artifact_key(digest)
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                    return True
                file.seek(0)
                return original_form(file.read(), digest) is not None
        except FileNotFoundError:
            return False


class LocalDocuments:
    """Named documents; each version is a file that is created once and never changed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def latest(self, name: str) -> Document | None:
        """See `DocumentStore.latest`."""
        versions = self._versions(name)
        if not versions:
            return None
        version = max(versions)
        return Document(version, (self._root / document_key(name, version)).read_bytes())

    def append(self, name: str, data: bytes, expected_version: int) -> Document:
        """See `DocumentStore.append`. Linking a finished file fails if the name is taken: a compare-and-set."""
        version = expected_version + 1
        path = self._root / document_key(checked_document_name(name), version)
        if version > 1 and expected_version not in self._versions(name):
            raise DocumentConflictError(f"document {name} has no version {expected_version} to follow")
        with _storage_errors(f"document {name}", path.parent), _staged(path, data) as staged:
            try:
                os.link(staged, path)
            except FileExistsError:
                raise DocumentConflictError(
                    f"document {name} already has a version {version}; another writer was first. "
                    "Read the latest version and decide anew."
                ) from None
            sync_folder(path.parent)
        return Document(version, data)

    def names(self, prefix: str = "") -> list[str]:
        """See `DocumentStore.names`."""
        base = self._root / "documents"
        found = {str(file.parent.relative_to(base)) for file in base.rglob("*.json") if _VERSION_FILE.match(file.name)}
        return sorted(name for name in found if name.startswith(prefix))

    def _versions(self, name: str) -> list[int]:
        folder = (self._root / document_key(checked_document_name(name), 1)).parent
        if not folder.is_dir():
            return []
        return [int(match[1]) for file in folder.iterdir() if (match := _VERSION_FILE.match(file.name))]


class LocalCheckpoints:
    """One file per unfinished stage: the SHA-256 of the payload, then the payload."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(self, stage_key: str, data: bytes) -> None:
        """See `CheckpointStore.save`."""
        path = self._path(stage_key)
        with _storage_errors("a checkpoint", path.parent):
            write_atomically(path, bytes.fromhex(sha256_hex(data)) + data)

    def load(self, stage_key: str) -> bytes | None:
        """See `CheckpointStore.load`."""
        try:
            stored = self._path(stage_key).read_bytes()
        except FileNotFoundError:
            return None
        data = stored[32:]
        return data if bytes.fromhex(sha256_hex(data)) == stored[:32] else None

    def clear(self, stage_key: str) -> None:
        """See `CheckpointStore.clear`."""
        self._path(stage_key).unlink(missing_ok=True)

    def _path(self, stage_key: str) -> Path:
        return self._root / checkpoint_key(stage_key)


class LocalRecords:
    """One file per stage record, replaced whole."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes | None:
        """See `RecordStore.read`."""
        try:
            return (self._root / record_key(key)).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """See `RecordStore.write`."""
        path = self._root / record_key(key)
        with _storage_errors(f"the record of stage {key}", path.parent):
            write_atomically(path, data)


class LocalAcknowledgements:
    """One file per model and gateway, which the gateway writes itself."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, model_name: str) -> Mapping[str, bytes]:
        """See `Acknowledgements.read`."""
        found = {}
        for path in sorted((self._root / acknowledgement_folder(model_name)).glob("*.json")):
            try:
                found[str(path)] = path.read_bytes()
            except FileNotFoundError:  # the replica withdrew since the folder was listed
                continue
        return found


class LocalFiles:
    """The files below one root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, prefix: str) -> Iterator[StoredFile]:
        """See `StoreFiles.entries`."""
        for path in (self._root / prefix).rglob("*"):
            if path.name.startswith("."):
                continue
            try:
                facts = path.stat()
            except FileNotFoundError:  # replaced or removed since the folder was read
                continue
            if stat.S_ISREG(facts.st_mode):
                modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                yield StoredFile(path.relative_to(self._root).as_posix(), facts.st_size, modified)

    def touch(self, key: str) -> None:
        """See `StoreFiles.touch`."""
        _make_young(self._root / key)

    def remove(self, key: str, older_than: datetime) -> bool:
        """See `StoreFiles.remove`.

        The file is moved aside before its age is looked at: a writer that finds it afterwards finds none and writes
        it anew, and one that has made it young before is seen here.
        """
        path = self._root / key
        aside = path.with_name(f".removing-{uuid.uuid4().hex}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime >= older_than.timestamp():
            aside.rename(path)
            return False
        aside.unlink()
        return True
