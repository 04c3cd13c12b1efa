"""Objects below one prefix of a bucket: whole reads and writes, create-once, listing. All of it is tried again."""

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from tasks.adapters import s3_create_once, s3_parts
from tasks.adapters.s3_connection import (
    S3Options,
    explained,
    is_absent,
    is_taken,
    is_unsupported,
    make_client,
    persist,
)
from tasks.contracts.errors import UserError
from tasks.contracts.object_place import ObjectPlace
from tasks.contracts.value import Digest

T = TypeVar("T")

_STREAM_BYTES = 2**20
_PROVED = "checks/one-writer"
"""Below it an object for each address under which a server was found to let one writer win."""
_RACES = "checks/races"
_CONTENT = b"Two writers cannot both create this object; Stillhouse makes sure of it before it writes.\n"
_WRITER = "writer"


@dataclass(frozen=True)
class ObjectFacts:
    """What S3 says of an object without sending it."""

    size_bytes: int
    modified: datetime
    metadata: dict[str, str]
    sha256: str | None
    """As S3 verified it when the object came, hexadecimal. Of an object that came in parts it is not known as a
    whole (""), though each part was verified; None if the server keeps no checksum."""


@dataclass(frozen=True)
class Listed:
    """One object of a listing."""

    key: str
    """Relative to the prefix."""
    size_bytes: int
    modified: datetime


class Bucket:
    """What lies below one place. Keys are relative to it."""

    def __init__(self, place: ObjectPlace, options: S3Options, setting: str) -> None:
        """Remember where; nothing is asked of S3 yet.

        Args:
            place: bucket and prefix.
            options: of the connection.
            setting: the setting that holds the place, for messages.
        """
        self.place, self._options, self._setting = place, options, setting
        self._creates_once = False

    @cached_property
    def _client(self) -> Any:
        return make_client(self._options)

    def url(self, key: str) -> str:
        """Return the full address of an object."""
        return f"s3://{self.place.bucket}/{self.place.prefix}{key}"

    def read(self, key: str) -> bytes | None:
        """Return a small object's bytes, or None if there is none: one request."""
        try:
            return self._do("read", key, lambda: self._read_once(key))
        except _Absent:
            return None

    def fetch(self, key: str) -> s3_parts.Fetched | None:
        """Return an object's bytes with their SHA-256, or None if there is none; a large one comes in parts."""
        try:
            return self._do("read", key, lambda: s3_parts.get(self._client, self._named(key)))
        except _Absent:
            return None

    def sha256(self, key: str) -> Digest | None:
        """Return the SHA-256 of an object's bytes, or None if there is none; they are streamed, never held whole."""
        try:
            return self._do("read", key, lambda: self._sha256_once(key))
        except _Absent:
            return None

    def facts(self, key: str) -> ObjectFacts | None:
        """Return what is known of an object, or None if there is none."""
        try:
            found = self._do("read", key, lambda: self._client.head_object(ChecksumMode="ENABLED", **self._named(key)))
        except _Absent:
            return None
        checksum = found.get("ChecksumSHA256")
        return ObjectFacts(
            size_bytes=found["ContentLength"],
            modified=found["LastModified"],
            metadata=found["Metadata"],
            sha256=None if checksum is None else _whole_sha256(checksum),
        )

    def write(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        """Put an object over whatever is there; S3 verifies the SHA-256 of every part of it.

        A reader sees the old bytes or the new, never a part: an upload in parts becomes an object when it is complete.

        Raises:
            UserError: S3 ignores the SHA-256.
        """
        arguments = {"Metadata": metadata or {}} | self._options.encryption_arguments
        self._do(
            "write",
            key,
            lambda: s3_parts.put(self._client, self._named(key), data, arguments, checked=self._checked),
        )

    def create(self, key: str, data: bytes) -> bool:
        """Put an object if its key is free; return whether this call has put it.

        A try whose answer was lost may have put it, and the next one then finds its key taken: who wrote it is told by
        a name of its own in the object's metadata.

        Raises:
            UserError: the server does not keep the condition, so that two writers could both believe to be first.
        """
        self.require_create_once()
        return self._create(self._client, key, data)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        self._do("remove", key, lambda: self._client.delete_object(**self._named(key)))

    def touch(self, key: str) -> None:
        """Make an object as young as one that was just written, without sending its bytes again."""
        facts = self.facts(key)
        if facts is None:
            return
        # REPLACE, since S3 refuses to copy an object onto itself as it is
        arguments: dict[str, Any] = {"Metadata": facts.metadata, "MetadataDirective": "REPLACE"}
        arguments |= self._options.encryption_arguments
        if self._checked:
            arguments["ChecksumAlgorithm"] = "SHA256"
        named = self._named(key)
        self._do(
            "write", key, lambda: self._client.copy(named, **named, ExtraArgs=arguments, Config=s3_parts.transfer())
        )

    def entries(self, prefix: str, *, after: str = "") -> Iterator[Listed]:
        """Give the objects whose keys begin with `prefix` and follow `after`, in the order of their keys."""
        own = len(self.place.prefix)
        for page in self._pages(prefix, after=after):
            for item in page.get("Contents", ()):
                key = item["Key"][own:]
                if key > after:
                    yield Listed(key, item["Size"], item["LastModified"])

    def folders(self, prefix: str) -> list[str]:
        """Return the names that come next after `prefix`, which ends with a slash, and before another slash."""
        start = len(self.place.prefix) + len(prefix)
        pages = self._pages(prefix, delimiter="/")
        return [item["Prefix"][start:-1] for page in pages for item in page.get("CommonPrefixes", ())]

    def signed_url(self, key: str, seconds: int) -> str:
        """Return a URL by which anybody may read the object until `seconds` have passed; nothing is asked of S3."""
        with explained("sign a URL of", self.url(key), self._options, self._setting):
            url: str = self._client.generate_presigned_url("get_object", Params=self._named(key), ExpiresIn=seconds)
        return url

    def require_create_once(self) -> None:
        """Make sure, once in the life of this object, that the server lets one writer create an object and no other.

        That it refuses what is there is asked every time. That it refuses one of several at once is asked once for
        each address, and an object says that it was.

        Raises:
            UserError: it does not.
        """
        if self._creates_once:
            return
        proved = f"{_PROVED}/{_slug(self._options.endpoint or 'aws')}"
        if self.facts(proved) is None:
            if s3_create_once.winners(self._options, lambda client, key: self._create(client, f"{_RACES}/{key}")) != 1:
                raise self._no_condition("lets several writers at once create one object")
            self._create(self._client, proved)
        if self._create(self._client, proved):
            raise self._no_condition("creates an object that is there already: it ignores If-None-Match")
        self._creates_once = True

    def _no_condition(self, fault: str) -> UserError:
        return UserError(
            f"{self._options.endpoint or 'AWS'} {fault}, and two writers could publish different routes under one "
            "version. Documents need a server that honours conditional writes (If-None-Match: *; Amazon S3 and "
            f"SeaweedFS do): point {self._setting} to one"
        )

    def _create(self, client: Any, key: str, data: bytes = _CONTENT) -> bool:
        writer = uuid.uuid4().hex
        checksum = s3_parts.checksum_of(data) if self._checked else {}

        def put() -> bool:
            try:
                answer = client.put_object(
                    Body=data,
                    IfNoneMatch="*",
                    Metadata={_WRITER: writer},
                    **self._named(key),
                    **checksum,
                    **self._options.encryption_arguments,
                )
            except client.exceptions.ClientError as error:
                if is_taken(error):
                    return False
                if is_unsupported(error):
                    raise self._no_condition("refuses If-None-Match") from error
                raise
            s3_parts.require_verified(answer, checksum, self._named(key))
            return True

        if self._do("write", key, put):
            return True
        found = self.facts(key)
        return found is not None and found.metadata.get(_WRITER) == writer

    @property
    def _checked(self) -> bool:
        return self._options.checksums == "sha256"

    def _read_once(self, key: str) -> bytes:
        with closing(self._client.get_object(**self._named(key))["Body"]) as body:
            data: bytes = body.read()
        return data

    def _sha256_once(self, key: str) -> Digest:
        digest = hashlib.sha256()
        with closing(self._client.get_object(**self._named(key))["Body"]) as body:
            for chunk in body.iter_chunks(_STREAM_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _pages(self, prefix: str, *, after: str = "", delimiter: str = "") -> Iterator[dict[str, Any]]:
        request: dict[str, Any] = {"Bucket": self.place.bucket, "Prefix": f"{self.place.prefix}{prefix}"}
        # a character less, since SeaweedFS leaves out what lies in a folder of just this name; `entries` drops the rest
        request |= {"StartAfter": f"{self.place.prefix}{after[:-1]}"} if after else {}
        request |= {"Delimiter": delimiter} if delimiter else {}
        while True:
            page = self._do("list", prefix, lambda: self._client.list_objects_v2(**request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _do(self, doing: str, key: str, call: Callable[[], T]) -> T:
        """Call with patience; an object that is not there is `_Absent`."""
        url = self.url(key)
        with explained(doing, url, self._options, self._setting):
            try:
                return persist(self._options.patience, f"{doing} {url}", call)
            except self._client.exceptions.ClientError as error:
                if is_absent(error):
                    raise _Absent(url) from error
                raise

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self.place.bucket, "Key": f"{self.place.prefix}{key}"}


class _Absent(Exception):  # noqa: N818 - not an error: whoever asks is told by None
    """There is no such object."""


def _whole_sha256(checksum: str) -> str:
    """Return S3's SHA-256 in hexadecimal; "" for `<checksum of the parts' checksums>-<number of parts>`."""
    return "" if "-" in checksum else base64.b64decode(checksum).hex()


def _slug(address: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", address)
