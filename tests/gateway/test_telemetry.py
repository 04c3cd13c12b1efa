import os
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry, Counter

from infra.gateway.durable import ABANDONED_AFTER_S
from infra.gateway.records import FeedbackRecord, feedback_table
from infra.gateway.sampling import InputRecord, input_table
from infra.gateway.telemetry import SegmentWriter


@pytest.fixture
def counter():
    return Counter("rows", "rows", ["log", "outcome"], registry=CollectorRegistry())


def value(counter, outcome):
    return counter.labels("feedback", outcome)._value.get()


def writer(
    root, counter, to_table=feedback_table, replica="r1", flush_rows=100, flush_interval_s=600, buffer_bytes=10**6
):
    made = SegmentWriter(
        root,
        "feedback",
        replica,
        to_table,
        counter,
        flush_rows=flush_rows,
        flush_interval_s=flush_interval_s,
        buffer_bytes=buffer_bytes,
    )
    made.start()
    return made


def record(name="a", model="m", num_labels=1):
    return FeedbackRecord(model, name, 1, [1.0] * num_labels)


def segments(root):
    return sorted(root.glob("*/*/*/*.parquet"))


def ids(root):
    return sorted(name for path in segments(root) for name in pq.read_table(path)["request_id"].to_pylist())


def test_close_writes_everything_that_waits(tmp_path, counter):
    log = writer(tmp_path, counter)
    for n in range(7):
        log.append(record(f"{n}", model=f"m{n % 2}"))
    log.close()
    assert ids(tmp_path) == [f"{n}" for n in range(7)]
    assert {path.relative_to(tmp_path).parts[:2] for path in segments(tmp_path)} == {
        ("m0", "feedback"),
        ("m1", "feedback"),
    }
    assert (value(counter, "written"), value(counter, "lost")) == (7, 0)


def test_append_writes_a_segment_when_enough_rows_wait(tmp_path, counter, poll):
    log = writer(tmp_path, counter, flush_rows=10)
    for n in range(10):
        log.append(record(f"{n}"))
    poll(lambda: value(counter, "written") == 10)
    assert len(ids(tmp_path)) == 10
    log.close()


def test_append_writes_a_segment_when_time_has_passed(tmp_path, counter, poll):
    log = writer(tmp_path, counter, flush_interval_s=0.02)
    log.append(record())
    poll(lambda: ids(tmp_path) == ["a"])
    log.close()


def test_append_counts_rows_as_lost_when_the_memory_is_full(tmp_path, counter):
    log = writer(tmp_path, counter, buffer_bytes=record().num_bytes * 2)
    for n in range(5):
        log.append(record(f"{n}"))
    log.close()
    assert ids(tmp_path) == ["0", "1"]
    assert (value(counter, "written"), value(counter, "lost")) == (2, 3)


def test_rows_wait_and_are_written_later_when_the_disk_refuses_them(tmp_path, counter, poll, caplog):
    root = tmp_path / "traffic"
    root.write_text("a file where the folder should be")
    log = writer(root, counter, flush_interval_s=0.02)
    log.append(record())
    poll(lambda: "will retry" in caplog.text)
    root.unlink()
    poll(lambda: value(counter, "written") == 1)
    log.close()
    assert ids(root) == ["a"]


def test_close_counts_rows_as_lost_when_the_disk_refuses_them_to_the_end(tmp_path, counter, caplog):
    root = tmp_path / "traffic"
    root.write_text("a file where the folder should be")
    log = writer(root, counter)
    log.append(record(num_labels=3))
    log.close()
    assert (value(counter, "written"), value(counter, "lost")) == (0, 3)
    assert "3 rows could not be written" in caplog.text


def test_a_record_that_cannot_be_laid_out_is_counted_and_stops_nothing(tmp_path, counter, poll, caplog):
    def fussy(records):
        if any(np.isnan(record.labels[0]) for record in records):
            raise ValueError("spoilt")
        return feedback_table(records)

    log = writer(tmp_path, counter, to_table=fussy, flush_interval_s=0.01)
    log.append(FeedbackRecord("m", "bad", 1, [float("nan")]))
    poll(lambda: value(counter, "lost") == 1)
    log.append(record("good"))
    log.close()
    assert ids(tmp_path) == ["good"]


def test_two_writers_of_the_same_name_lose_nothing(tmp_path, counter, monkeypatch):
    monkeypatch.setattr("infra.gateway.telemetry.time.time_ns", lambda: 1_700_000_000_000_000_000)
    for name in ("first", "second"):
        log = writer(tmp_path, counter)
        log.append(record(name))
        log.close()
    assert ids(tmp_path) == ["first", "second"]
    assert not list(tmp_path.rglob(".staged-*"))


def test_a_segment_is_written_once_when_the_disk_fails_after_it_was_placed(tmp_path, counter, monkeypatch, caplog):
    def fail(folder):
        raise OSError(5, "Input/output error")

    (tmp_path / "m" / "feedback").mkdir(parents=True)
    log = writer(tmp_path, counter)
    monkeypatch.setattr("infra.gateway.durable._make_folder", lambda folder: folder.mkdir(exist_ok=True))
    monkeypatch.setattr("infra.gateway.durable._sync_folder", fail)
    log.append(record())
    log.close()
    assert ids(tmp_path) == ["a"]
    assert (value(counter, "written"), value(counter, "lost")) == (1, 0)
    assert "may not outlast a power failure" in caplog.text


def test_waiting_rows_are_those_that_a_kill_would_lose(tmp_path, counter, poll):
    root = tmp_path / "traffic"
    root.write_text("a file where the folder should be")
    log = writer(root, counter, flush_interval_s=0.02)
    log.append(record(num_labels=3))
    log.append(record("b", model="n", num_labels=2))
    assert log.waiting_rows == 5
    root.unlink()
    poll(lambda: log.waiting_rows == 0)
    assert value(counter, "written") == 5
    log.close()


def test_start_removes_unfinished_files_of_killed_processes_and_no_others(tmp_path, counter, poll):
    hour = datetime.now(UTC).strftime("%Y-%m-%d-%H")
    folder = tmp_path / "m" / "feedback" / hour
    folder.mkdir(parents=True)
    for name in (".staged-old", ".staged-new", "other-1.parquet"):
        (folder / name).write_bytes(b"half")
    old = time.time() - ABANDONED_AFTER_S - 60
    for name in (".staged-old", "other-1.parquet"):
        os.utime(folder / name, (old, old))
    writer(tmp_path, counter).close()
    assert sorted(path.name for path in folder.iterdir()) == [".staged-new", "other-1.parquet"]


def test_inputs_of_two_shapes_come_into_segments_of_their_own(tmp_path, counter):
    log = writer(tmp_path, counter, to_table=input_table)
    for number, width in enumerate((4, 5, 4)):
        log.append(InputRecord("m", f"{number}", 1, np.zeros((1, width), np.float32)))
    log.close()
    assert value(counter, "lost") == 0
    assert sorted(pq.read_table(path)["request_id"].to_pylist() for path in segments(tmp_path)) == [["0", "2"], ["1"]]
