"""Takes the segments that gateways of this machine have written to S3, each row once, and removes them here.

Gateways write a segment every few seconds; those of one hour go up as one bundle. A bundle is first made and named
here, with the list of its segments beside it, and only then sent. Whatever step a process dies in, the next one finds
that list and repeats the rest: the key holds the digest of the bytes, so an upload that is repeated meets itself, and a
segment is removed only when S3 has shown that it holds the bundle.
"""

import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.local_store import sync_folder, write_atomically
from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_traffic import segment_key
from tasks.contracts.errors import InfrastructureError, StillhouseError
from tasks.contracts.shipping import Bundle, ShippingState
from tasks.contracts.traffic_retention import LOGS, is_hour
from tasks.contracts.value import sha256_hex
from tasks.decisions.log_retention import first_hour_kept

if TYPE_CHECKING:
    import pyarrow as pa

_STAGE = ".shipping"
_STATE = "state.json"
_DAMAGED = ".damaged"
_BUNDLE_BYTES = 16 * 2**20
"""Of segments in one bundle at most: it is made in memory."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Segment:
    """One file that a gateway has finished."""

    path: Path
    model_name: str
    log: str
    hour: str
    size_bytes: int


class TrafficShipper:
    """The way of one folder's segments to one place of a bucket. One process at a time goes it."""

    def __init__(self, bucket: Bucket, root: Path, *, max_waiting_bytes: int) -> None:
        """Remember both ends.

        Args:
            bucket: where the log lies.
            root: where gateways of this machine write it.
            max_waiting_bytes: of segments that wait here; beyond it the oldest are lost, and counted.
        """
        self._bucket, self._root, self._max_waiting_bytes = bucket, root, max_waiting_bytes
        self._stage = root / _STAGE

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Ship what is finished every `interval_s` until told to stop, and once more at the end."""
        while True:
            ended = stop.wait(interval_s)
            try:
                self.ship()
            except (StillhouseError, OSError) as error:
                logger.error("log segments wait, and are tried again: %s", error)
            if ended:
                return

    def ship(self) -> ShippingState:
        """Ship everything that is finished now, and return the counts since the folder was first used.

        Raises:
            StillhouseError: S3 does not answer or refuses; what was not sent waits.
            OSError: the folder cannot be read or written.
        """
        try:
            for left in sorted(self._stage.glob("*.manifest")):
                self._finish(left)
            while segments := self._next_segments():
                manifest = self._stage_bundle(segments)
                if manifest is not None:
                    self._finish(manifest)
        finally:
            self._bound()
        self._tidy()
        return self.state()

    def state(self) -> ShippingState:
        """Return the counts, and what waits now."""
        waiting = list(self._segments())
        return self._counted().model_copy(
            update={"waiting_segments": len(waiting), "waiting_bytes": sum(one.size_bytes for one in waiting)}
        )

    def _next_segments(self) -> list[_Segment]:
        """Return the oldest segments of one model, log and hour that may go together."""
        chosen: list[_Segment] = []
        for segment in sorted(self._segments(), key=lambda one: (one.hour, one.model_name, one.log, one.path.name)):
            same = not chosen or (segment.path.parent == chosen[0].path.parent)
            if not same or (chosen and sum(one.size_bytes for one in chosen) + segment.size_bytes > _BUNDLE_BYTES):
                break
            chosen.append(segment)
        return chosen

    def _stage_bundle(self, segments: list[_Segment]) -> Path | None:
        """Make one file of segments and then the list that vouches for it; return the list, None if none can be read.

        Segments of another layout than the first are left to the next bundle.
        """
        readable: list[tuple[_Segment, pa.Table]] = []
        for segment in segments:
            table = self._table(segment)
            if table is not None and (not readable or table.schema.equals(readable[0][1].schema, check_metadata=True)):
                readable.append((segment, table))
        if not readable:
            return None
        first = readable[0][0]
        data = _parquet([table for _, table in readable])
        digest = sha256_hex(data)
        bundle = Bundle(
            key=segment_key(first.model_name, first.log, first.hour, first.path.stem, digest),
            digest=digest,
            rows=sum(table.num_rows for _, table in readable),
            segments=tuple(str(segment.path.relative_to(self._root)) for segment, _ in readable),
        )
        name = uuid.uuid4().hex
        write_atomically(self._stage / f"{name}.parquet", data)
        manifest = self._stage / f"{name}.manifest"
        write_atomically(manifest, bundle.canonical_json())
        return manifest

    def _finish(self, manifest: Path) -> None:
        """Send a staged bundle, see that it is there, and remove what it was made of; each step may be repeated."""
        bundle = Bundle.model_validate_json(manifest.read_bytes())
        staged = manifest.with_suffix(".parquet")
        if staged.exists():  # else it was sent, seen and removed
            self._send(bundle, staged.read_bytes())
            for name in bundle.segments:
                (self._root / name).unlink(missing_ok=True)
            folder = (self._root / bundle.segments[0]).parent
            if folder.is_dir():
                sync_folder(folder)  # they must not come back once the list is gone
            self._count(shipped_segments=len(bundle.segments), shipped_rows=bundle.rows)
            staged.unlink()
        manifest.unlink()

    def _send(self, bundle: Bundle, data: bytes) -> None:
        if sha256_hex(data) != bundle.digest:
            raise InfrastructureError(
                f"{self._stage} holds a bundle whose bytes changed since it was made; check the disk. Remove the file "
                "and its list there, and its segments are bundled anew"
            )
        self._bucket.create(bundle.key, data)
        facts = self._bucket.facts(bundle.key)
        there = facts.sha256 if facts and facts.sha256 else self._bucket.sha256(bundle.key)
        if there != bundle.digest:
            raise InfrastructureError(
                f"{self._bucket.url(bundle.key)} holds other bytes than were sent; remove it, and it is sent again"
            )

    def _table(self, segment: _Segment) -> "pa.Table | None":
        """Read a segment; one that cannot be read is set aside under another name, and counted."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(segment.path) as file:
                table = file.read()
        except pa.ArrowException as error:
            logger.error("log segment %s cannot be read and is set aside: %s", segment.path, error)
            self._count(damaged_segments=1)
            segment.path.rename(segment.path.with_name(segment.path.name + _DAMAGED))
            return None
        return table

    def _bound(self) -> None:
        """Remove the oldest segments that are more than may wait here; their rows are lost, and counted first."""
        waiting = sorted(self._segments(), key=lambda one: (one.hour, one.path.name))
        surplus = sum(one.size_bytes for one in waiting) - self._max_waiting_bytes
        for segment in waiting:
            if surplus <= 0:
                return
            table = self._table(segment)
            if table is not None:
                logger.error("log segment %s is lost: too much waits to be shipped", segment.path)
                self._count(lost_segments=1, lost_rows=table.num_rows)
                segment.path.unlink(missing_ok=True)
            surplus -= segment.size_bytes

    def _tidy(self) -> None:
        """Remove bundles that a crash left without a list, which were never sent, and hours that are empty and over."""
        for left in self._stage.glob("*.parquet"):
            left.unlink()
        over = first_hour_kept(datetime.now(UTC))
        for log in LOGS:
            for folder in self._root.glob(f"*/{log}/*"):
                if is_hour(folder.name) and folder.name < over and not any(folder.iterdir()):
                    folder.rmdir()

    def _segments(self) -> Iterator[_Segment]:
        """Give the finished segments that no list names yet, which are those that wait."""
        listed = {
            name
            for manifest in self._stage.glob("*.manifest")
            for name in Bundle.model_validate_json(manifest.read_bytes()).segments
        }
        for log in LOGS:
            for path in self._root.glob(f"*/{log}/*/*.parquet"):
                if path.name.startswith(".") or not is_hour(path.parent.name):
                    continue
                if str(path.relative_to(self._root)) not in listed:
                    yield _Segment(path, path.parents[2].name, log, path.parent.name, path.stat().st_size)

    def _counted(self) -> ShippingState:
        try:
            return ShippingState.model_validate_json((self._stage / _STATE).read_bytes())
        except FileNotFoundError:
            return ShippingState()

    def _count(self, **more: int) -> None:
        known = self._counted()
        changed = known.model_copy(update={name: getattr(known, name) + number for name, number in more.items()})
        write_atomically(self._stage / _STATE, changed.canonical_json())


def _parquet(tables: "list[pa.Table]") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = pa.BufferOutputStream()
    with pq.ParquetWriter(target, tables[0].schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    data: bytes = target.getvalue().to_pybytes()
    return data
