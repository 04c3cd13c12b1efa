"""The artifact, document, record and checkpoint stores in S3: the layout of the local store, below one prefix."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from tasks.adapters.s3_bucket import Bucket, ObjectFacts
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
from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError, DocumentConflictError
from tasks.contracts.value import Digest, sha256_hex
from tasks.runtime.stores import Document, StoredFile

_VERSION = re.compile(r"^(?P<name>.+)/(?P<version>\d{8})\.json$")
_DIGEST, _STORED = "sha256", "stored-sha256"
_DOCUMENTS = "documents/"


class S3Artifacts:
    """Content-addressed blobs, compressed if wished; either form is read.

    Each names in its metadata the digest of its artifact and of its stored bytes, so that a hit on the cache costs a
    request and no download: S3 keeps the SHA-256 that it verified, and never shows a part of an object.
    """

    def __init__(self, bucket: Bucket, compression: StoreCompression = "none") -> None:
        self._bucket, self._compression = bucket, compression
        self._damaged: set[Digest] = set()

    def put(self, data: bytes) -> ArtifactRef:
        """See `ArtifactStore.put`."""
        digest = sha256_hex(data)
        if self.contains(digest):
            S3Files(self._bucket).touch(artifact_key(digest))
        else:
            stored = stored_form(data, self._compression)
            stored_digest = digest if stored is data else sha256_hex(stored)
            self._bucket.write(artifact_key(digest), stored, {_DIGEST: digest, _STORED: stored_digest})
            self._damaged.discard(digest)
        return ArtifactRef(digest=digest, size_bytes=len(data))

    def get(self, digest: Digest) -> bytes:
        """See `ArtifactStore.get`."""
        key = artifact_key(digest)
        stored = self._bucket.fetch(key)
        if stored is None:
            raise ArtifactMissingError(
                f"no artifact {self._bucket.url(key)}; run the plan again to make it, or point STILLHOUSE_STORE_URL to "
                "the store that holds it"
            )
        data = stored.data if stored.sha256 == digest else original_form(stored.data, digest)
        if data is None:
            self._damaged.add(digest)
            raise ArtifactCorruptError(
                f"artifact {self._bucket.url(key)} is damaged: its {len(stored.data)} stored bytes have the digest "
                f"{stored.sha256} and do not unpack to it; run the plan again, which computes it anew"
            )
        return data

    def contains(self, digest: Digest) -> bool:
        """See `ArtifactStore.contains`. What S3 has not verified itself is read whole."""
        facts = self._bucket.facts(artifact_key(digest))
        if facts is None or digest in self._damaged:
            return False
        return _is_verified(facts, digest) or self._reads_whole(digest)

    def signed_url(self, digest: Digest, seconds: int) -> str:
        """Return a URL by which a machine without credentials may read the stored form of the artifact for a while.

        Raises:
            ArtifactMissingError: there is none, or it is damaged.
        """
        if not self.contains(digest):
            raise ArtifactMissingError(f"no whole artifact {self._bucket.url(artifact_key(digest))}")
        return self._bucket.signed_url(artifact_key(digest), seconds)

    def _reads_whole(self, digest: Digest) -> bool:
        if self._bucket.sha256(artifact_key(digest)) == digest:
            return True
        stored = self._bucket.fetch(artifact_key(digest))  # it may be compressed, or was changed by hand
        return stored is not None and original_form(stored.data, digest) is not None


def _is_verified(facts: ObjectFacts, digest: Digest) -> bool:
    """Tell whether S3 vouches for an artifact; if not, only its bytes can."""
    if facts.metadata.get(_DIGEST) != digest:
        return False
    # "": it came in parts, each of which S3 verified, and the metadata with them
    return facts.sha256 is not None and facts.sha256 in ("", facts.metadata.get(_STORED))


class S3Documents:
    """Named documents; each version is an object that is created once and never changed."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[str, int] = {}

    def latest(self, name: str) -> Document | None:
        """See `DocumentStore.latest`. Versions have no gaps, so a known one saves listing those before it."""
        version = self.newest_version(checked_document_name(name))
        if version == 0:
            return None
        data = self._bucket.read(document_key(name, version))
        return None if data is None else Document(version, data)

    def append(self, name: str, data: bytes, expected_version: int) -> Document:
        """See `DocumentStore.append`. Creating an object fails if its key is taken: a compare-and-set."""
        version = expected_version + 1
        key = document_key(checked_document_name(name), version)
        if version > 1 and self._bucket.facts(document_key(name, expected_version)) is None:
            raise DocumentConflictError(f"document {name} has no version {expected_version} to follow")
        if not self._bucket.create(key, data):
            raise DocumentConflictError(
                f"document {name} already has a version {version} ({self._bucket.url(key)}); another writer was first. "
                "Read the latest version and decide anew."
            )
        self._known[name] = version
        return Document(version, data)

    def names(self, prefix: str = "") -> list[str]:
        """See `DocumentStore.names`."""
        found = set()
        for item in self._bucket.entries(f"{_DOCUMENTS}{prefix}"):
            if match := _VERSION.match(item.key.removeprefix(_DOCUMENTS)):
                found.add(match["name"])
        return sorted(found)

    def require_create_once(self) -> None:
        """Make sure that the server refuses a version that is there; `append` does so before it first writes.

        Raises:
            UserError: it does not.
        """
        self._bucket.require_create_once()

    def version(self, name: str, version: int) -> bytes | None:
        """Return the bytes of one version, or None."""
        return self._bucket.read(document_key(name, version))

    def newest_version(self, name: str) -> int:
        """Return the number of the newest version, 0 if there is none; one request once a version is known."""
        known = self._known.get(name, 0)
        if known and self._bucket.facts(document_key(name, known + 1)) is None:
            return known
        folder = document_key(name, 1).rpartition("/")[0]
        after = document_key(name, known) if known else ""
        for item in self._bucket.entries(f"{folder}/", after=after):
            match = _VERSION.match(item.key.removeprefix(_DOCUMENTS))
            if match and match["name"] == name:  # a document may lie below another one's name
                known = max(known, int(match["version"]))
        if known:
            self._known[name] = known
        return known


class S3Checkpoints:
    """One object per unfinished stage: the SHA-256 of the payload, then the payload."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def save(self, stage_key: str, data: bytes) -> None:
        """See `CheckpointStore.save`."""
        self._bucket.write(checkpoint_key(stage_key), bytes.fromhex(sha256_hex(data)) + data)

    def load(self, stage_key: str) -> bytes | None:
        """See `CheckpointStore.load`."""
        stored = self._bucket.fetch(checkpoint_key(stage_key))
        if stored is None:
            return None
        data = stored.data[32:]
        return data if bytes.fromhex(sha256_hex(data)) == stored.data[:32] else None

    def clear(self, stage_key: str) -> None:
        """See `CheckpointStore.clear`."""
        self._bucket.delete(checkpoint_key(stage_key))


class S3Records:
    """One object per stage record, replaced whole."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def read(self, key: str) -> bytes | None:
        """See `RecordStore.read`."""
        return self._bucket.read(record_key(key))

    def write(self, key: str, data: bytes) -> None:
        """See `RecordStore.write`."""
        self._bucket.write(record_key(key), data)


class S3Acknowledgements:
    """What gateways say they serve, brought here by the mirrors beside them."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def read(self, model_name: str) -> Mapping[str, bytes]:
        """See `Acknowledgements.read`."""
        found = {}
        for item in self._bucket.entries(acknowledgement_folder(model_name)):
            data = self._bucket.read(item.key)
            if data is not None:  # else the replica withdrew since the listing
                found[self._bucket.url(item.key)] = data
        return found

    def write(self, model_name: str, replica: str, data: bytes) -> None:
        """Replace the acknowledgement of one replica."""
        self._bucket.write(f"{acknowledgement_folder(model_name)}{replica}.json", data)

    def withdraw(self, model_name: str, replica: str) -> None:
        """Remove it, so that nobody waits for a gateway that has stopped."""
        self._bucket.delete(f"{acknowledgement_folder(model_name)}{replica}.json")


class S3Files:
    """The objects of a store."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def entries(self, prefix: str) -> Iterator[StoredFile]:
        """See `StoreFiles.entries`."""
        for item in self._bucket.entries(prefix):
            yield StoredFile(item.key, item.size_bytes, item.modified)

    def touch(self, key: str) -> None:
        """See `StoreFiles.touch`. The object is copied onto itself within S3."""
        facts = self._bucket.facts(key)
        if facts is not None and facts.modified < datetime.now(UTC) - timedelta(seconds=FRESH_FOR_S):
            self._bucket.touch(key)

    def remove(self, key: str, older_than: datetime) -> bool:
        """See `StoreFiles.remove`. S3 cannot delete by age, so its age is asked for just before."""
        facts = self._bucket.facts(key)
        if facts is None or facts.modified >= older_than:
            return False
        self._bucket.delete(key)
        return True
