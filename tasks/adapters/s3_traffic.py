"""The prediction log in S3, read through a copy on this machine.

Segments never change, so each is brought here once, however often the log is looked at; what was removed there is
removed here.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from tasks.adapters.local_store import write_atomically
from tasks.adapters.s3_bucket import Bucket, Listed
from tasks.contracts.errors import ArtifactCorruptError
from tasks.contracts.traffic_retention import LOGS, Pruned, is_hour
from tasks.contracts.value import Digest, sha256_hex
from tasks.decisions.log_retention import Limits, LoggedHour, choose_hours, first_hour_kept

_SEGMENT = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9-]*)/(?P<log>[a-z]+)/(?P<hour>\d{4}-\d{2}-\d{2}-\d{2})/"
    r"[A-Za-z0-9][A-Za-z0-9._-]*-(?P<digest>[0-9a-f]{64})\.parquet"
)
_AT_ONCE = 8


def segment_key(model_name: str, log: str, hour: str, stem: str, digest: Digest) -> str:
    """Return the key of a segment. It holds the digest, so a repeated upload meets itself and nothing else."""
    return f"{model_name}/{log}/{hour}/{stem}-{digest}.parquet"


class S3Traffic:
    """The log below one place of a bucket, and its copy below one folder."""

    def __init__(self, bucket: Bucket, copy: Path) -> None:
        self._bucket = bucket
        self._copy = copy / bucket.place.bucket / bucket.place.prefix

    @property
    def place(self) -> str:
        """See `TrafficFiles.place`."""
        return self._bucket.place.url

    def folder(self, model_name: str | None = None, since: datetime | None = None) -> Path:
        """See `TrafficFiles.folder`. Only segments that are not here yet are fetched, several at a time.

        Raises:
            ArtifactCorruptError: a segment's bytes do not have the digest in its name.
        """
        first = "" if since is None else first_hour_kept(since)
        for name in self.models() if model_name is None else [model_name]:
            for log in LOGS:
                self._follow(name, log, first)
        self._copy.mkdir(parents=True, exist_ok=True)
        return self._copy

    def models(self) -> list[str]:
        """See `TrafficFiles.models`."""
        return sorted(name for name in self._bucket.folders("") if self._bucket.folders(f"{name}/predictions/"))

    def prune(self, model_name: str, limits: Limits, *, dry_run: bool = False) -> Pruned:
        """See `TrafficFiles.prune`. The oldest go first, so that what a crash leaves is a whole end of the log."""
        segments: dict[tuple[str, str], list[Listed]] = defaultdict(list)
        for log in LOGS:
            for item in self._segments(model_name, log, ""):
                segments[item.key.split("/")[2], log].append(item)
        choice = choose_hours(
            (LoggedHour(hour, log, len(items), sum(item.size_bytes for item in items))
             for (hour, log), items in segments.items()),
            limits,
        )  # fmt: skip
        if not dry_run:
            for hour in choice.doomed:
                for item in segments[hour.name, hour.log]:
                    self._bucket.delete(item.key)
        return choice.report(model_name, dry_run=dry_run)

    def _follow(self, model_name: str, log: str, first: str) -> None:
        """Make the copy of one log equal the log, from the hour `first` on."""
        folder = self._copy / model_name / log
        there = {item.key for item in self._segments(model_name, log, first)}
        oldest = next((item.key.split("/")[2] for item in self._segments(model_name, log, "")), "")
        copied = {str(path.relative_to(self._copy)): path.parent.name for path in folder.glob("*/*.parquet")}
        here = {key for key, hour in copied.items() if hour >= first}
        pruned = {key for key, hour in copied.items() if hour < oldest or not oldest}
        for gone in (here - there) | pruned:
            (self._copy / gone).unlink(missing_ok=True)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._fetch, sorted(there - here)))

    def _fetch(self, key: str) -> None:
        data = self._bucket.read(key)
        if data is None:  # it was removed since it was listed
            return
        match = _SEGMENT.fullmatch(key)
        assert match is not None
        if sha256_hex(data) != match["digest"]:
            raise ArtifactCorruptError(
                f"log segment {self._bucket.url(key)} is damaged: its bytes have the digest {sha256_hex(data)}; "
                "restore it, or remove it to go on without its rows"
            )
        write_atomically(self._copy / key, data)

    def _segments(self, model_name: str, log: str, first: str) -> Iterator[Listed]:
        """Give the segments of one log, oldest hour first; what is named otherwise is not the log's."""
        prefix = f"{model_name}/{log}/"
        for item in self._bucket.entries(prefix, after=f"{prefix}{first}" if first else ""):
            match = _SEGMENT.fullmatch(item.key)
            if match and is_hour(match["hour"]):
                yield item
