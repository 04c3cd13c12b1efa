"""The log: records wait in bounded memory, and one thread writes them as Parquet segments.

Nothing here is ever raised to a caller. What cannot be kept or written is counted, in the metrics
and in the process's own log. A row that is counted as written lies on the disk, once, in a segment
that readers see whole. Rows that still wait die with a process that is killed: a metric tells how many
they are at any time.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client import Counter

from infra.gateway.durable import STAGED, publish_file, remove_abandoned

_HOUR_FORMAT = "%Y-%m-%d-%H"
_TIDIED_HOURS = 24
"""Older hours are left to retention: a log of weeks is long to look through."""

_FEW_VALUED = [
    "row", "route_version", "rollout_id", "arm", "served_by", "model_digest", "model_version", "batch_rows", "error",
    "prediction", "label",
]  # fmt: skip
"""Columns that repeat a few values. A dictionary of any other, such as the ids, would hold each of its values."""

logger = logging.getLogger(__name__)


class Record(Protocol):
    """What a segment writer needs to know of a record."""

    @property
    def model_name(self) -> str: ...  # noqa: D102
    @property
    def num_rows(self) -> int: ...  # noqa: D102
    @property
    def num_bytes(self) -> int: ...  # noqa: D102
    @property
    def layout(self) -> object: ...  # noqa: D102


R = TypeVar("R", bound=Record)


class SegmentWriter(Generic[R]):
    """One log, `predictions`, `feedback` or `inputs`, of every model of this replica.

    A segment lies in the folder of the hour in which it was written, so that its rows are from that
    hour or from just before it.
    """

    def __init__(
        self,
        root: Path,
        log: str,
        replica: str,
        to_table: Callable[[list[R]], pa.Table],
        rows_counter: Counter,
        *,
        flush_rows: int,
        flush_interval_s: float,
        buffer_bytes: int,
    ) -> None:
        self._root, self._log, self._replica = root, log, replica
        self._to_table = to_table
        self._written = rows_counter.labels(log, "written")
        self._lost = rows_counter.labels(log, "lost")
        self._flush_rows, self._flush_interval_s, self._buffer_bytes = flush_rows, flush_interval_s, buffer_bytes
        self._lock = threading.Lock()
        self._records: list[R] = []
        self._rows = 0
        self._bytes = 0
        self._rows_in_hand = 0
        self._number = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"gateway-{log}-log", daemon=True)

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """Rows that were taken and are not written yet: what is lost if the process is killed now."""
        with self._lock:
            return self._rows + self._rows_in_hand

    def append(self, record: R) -> None:
        """Take a record; it is lost, and counted, when the memory for waiting records is full."""
        num_rows, num_bytes = record.num_rows, record.num_bytes
        with self._lock:
            fits = self._bytes + num_bytes <= self._buffer_bytes
            if fits:
                self._records.append(record)
                self._rows += num_rows
                self._bytes += num_bytes
        if not fits:
            self._lost.inc(num_rows)
        elif self._rows >= self._flush_rows:
            self._wake.set()

    def close(self) -> None:
        """Write everything that waits, and stop."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        with self._lock:
            lost = self._rows
        if lost:
            self._lost.inc(lost)
            logger.error("%s log: %d rows could not be written before the end and are lost", self._log, lost)

    def _work(self) -> None:
        self._tidy()
        while not self._stopping.is_set():
            self._wake.wait(self._flush_interval_s)
            self._wake.clear()
            if not self._flush():
                self._stopping.wait(self._flush_interval_s)
        self._flush()

    def _flush(self) -> bool:
        """Write what waits; return False, and keep it waiting, if the disk refused some of it."""
        with self._lock:
            self._rows_in_hand = self._rows
            records, self._records, self._rows, self._bytes = self._records, [], 0, 0
        segments: dict[tuple[str, object], list[R]] = {}
        for record in records:
            segments.setdefault((record.model_name, record.layout), []).append(record)
        outcomes = [self._flush_segment(model_name, group) for (model_name, _), group in segments.items()]
        return all(outcomes)

    def _flush_segment(self, model_name: str, records: list[R]) -> bool:
        rows = sum(record.num_rows for record in records)
        try:
            self._write(model_name, self._to_table(records))
        except OSError as error:  # the disk may have room again at the next flush
            logger.error("%s log of %s: %d rows not written, will retry: %s", self._log, model_name, rows, error)
            with self._lock:
                self._rows_in_hand -= rows
                self._records += records
                self._rows += rows
                self._bytes += sum(record.num_bytes for record in records)
            return False
        except Exception:  # a record that cannot be laid out must not stop those that follow
            logger.exception("%s log of %s: %d rows lost", self._log, model_name, rows)
            self._lost.inc(rows)
        else:
            self._written.inc(rows)
        with self._lock:
            self._rows_in_hand -= rows
        return True

    def _write(self, model_name: str, table: pa.Table) -> None:
        if not table.num_rows:
            return
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", use_dictionary=_FEW_VALUED)
        data = buffer.getvalue().to_pybytes()
        now = time.time_ns()
        hour = datetime.fromtimestamp(now / 1e9, UTC).strftime(_HOUR_FORMAT)
        folder = self._root / model_name / self._log / hour
        self._number = max(self._number + 1, now // 1000)  # rises through restarts under the same name
        while not publish_file(folder / f"{self._replica}-{self._number}.parquet", data):
            self._number += 1  # another replica was given the same name

    def _tidy(self) -> None:
        """Remove what processes left half written in the last hours, when they were killed."""
        now = datetime.now(UTC)
        hours = [(now - timedelta(hours=back)).strftime(_HOUR_FORMAT) for back in range(_TIDIED_HOURS)]
        try:
            removed = sum(remove_abandoned(self._root.glob(f"*/{self._log}/{hour}/{STAGED}*")) for hour in hours)
        except OSError as error:
            logger.warning("%s log: unfinished files stay: %s", self._log, error)
        else:
            if removed:
                logger.info("%s log: %d unfinished files of killed processes removed", self._log, removed)
