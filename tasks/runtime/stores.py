"""What stages and flows ask of a store: blobs by their digest, documents with versions, checkpoints, records, files."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.value import Digest


@runtime_checkable
class ArtifactStore(Protocol):
    """Content-addressed blobs. Writes are atomic, reads verify the digest."""

    def put(self, data: bytes) -> ArtifactRef:
        """Store `data` under its digest; storing the same bytes again is a cheap no-op.

        Raises:
            InfrastructureError: the store cannot be written (full, unreachable); nothing partial is left.
        """
        ...

    def get(self, digest: Digest) -> bytes:
        """Return the blob.

        Raises:
            ArtifactMissingError: no such blob.
            ArtifactCorruptError: the stored bytes do not match the digest.
        """
        ...

    def contains(self, digest: Digest) -> bool:
        """Tell whether the blob is there and whole."""
        ...


@dataclass(frozen=True)
class Document:
    """One version of a named document; versions count from 1."""

    version: int
    data: bytes


class DocumentStore(Protocol):
    """Named documents with every version kept; appending is compare-and-set."""

    def latest(self, name: str) -> Document | None:
        """Return the newest version of the document called `name`, or None."""
        ...

    def append(self, name: str, data: bytes, expected_version: int) -> Document:
        """Write version `expected_version + 1`.

        Raises:
            DocumentConflictError: that version exists already.
        """
        ...

    def names(self, prefix: str = "") -> list[str]:
        """List the names of all documents whose name starts with `prefix`, sorted."""
        ...


class CheckpointStore(Protocol):
    """The last checkpoint of an iterative stage; overwritten atomically, removed when the stage is done."""

    def save(self, stage_key: str, data: bytes) -> None:
        """Replace the stage's checkpoint."""
        ...

    def load(self, stage_key: str) -> bytes | None:
        """Return the stage's checkpoint, or None if there is none or it is damaged."""
        ...

    def clear(self, stage_key: str) -> None:
        """Remove the stage's checkpoint, if any."""
        ...


class RecordStore(Protocol):
    """Small mutable records by key: which result a stage had."""

    def read(self, key: str) -> bytes | None:
        """Return the record, or None."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Replace the record, atomically."""
        ...


@dataclass(frozen=True)
class StoredFile:
    """One file or object of a store."""

    key: str
    """Relative to the store's root."""
    size_bytes: int
    modified: datetime


class StoreFiles(Protocol):
    """What lies in a store, as files with an age: for collecting what nothing names any more."""

    def entries(self, prefix: str) -> Iterator[StoredFile]:
        """Give the finished files whose keys begin with `prefix`, which ends with a slash."""
        ...

    def touch(self, key: str) -> None:
        """Make a file young whose time is more than half a day back, if it is there: somebody rests on it again."""
        ...

    def remove(self, key: str, older_than: datetime) -> bool:
        """Remove a file if it is older than that at this moment; return whether it was."""
        ...


class StageCommits(Protocol):
    """Which record of the record store is a stage's; beside it there may be those of workers that lost the stage."""

    def place(self, stage_key: str) -> str:
        """Return the key of the stage's record; nothing may lie there."""
        ...

    def new_place(self, stage_key: str) -> str:
        """Return the key under which this worker is to write the stage's record.

        Raises:
            LockLostError: this process does not hold the stage's lock.
        """
        ...

    def commit(self, stage_key: str, place: str) -> None:
        """Make the record at `place`, which is written, the stage's.

        Raises:
            LockLostError: another holds the stage's lock by now; the record is not the stage's.
        """
        ...


class OneRecord:
    """The only record of a stage is its own: its lock cannot be lost while its worker lives."""

    def place(self, stage_key: str) -> str:
        """See `StageCommits.place`."""
        return stage_key

    def new_place(self, stage_key: str) -> str:
        """See `StageCommits.new_place`."""
        return stage_key

    def commit(self, stage_key: str, place: str) -> None:
        """See `StageCommits.commit`."""
