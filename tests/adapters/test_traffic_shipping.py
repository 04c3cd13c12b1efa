from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.adapters import traffic_shipping
from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_traffic import S3Traffic
from tasks.adapters.traffic import TrafficLog
from tasks.adapters.traffic_shipping import TrafficShipper
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError
from tests.adapters.s3_server import Fault
from tests.adapters.traffic_files import NOON, Segments


class KilledError(BaseException):
    """The process ends here."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "traffic"


@pytest.fixture
def log(root):
    return Segments(root)


def shipper(s3, root, max_waiting_bytes=10**9):
    return TrafficShipper(s3.bucket(), root, max_waiting_bytes=max_waiting_bytes)


def there(s3, tmp_path, model="m"):
    """The request ids of all rows in the bucket, read as monitoring does."""
    log = TrafficLog(S3Traffic(s3.bucket(), tmp_path / "copy").folder(model))
    return log.predictions(model)["request_id"].to_pylist()


def here(root):
    return sorted(root.glob("*/*/*/*.parquet"))


def write(log, *names, at=NOON):
    log.predictions(*({"request_id": name, "at": at} for name in names))


def test_segments_of_an_hour_go_up_as_one_object_and_are_removed_here(s3, root, log, tmp_path):
    for number in range(4):
        write(log, f"{number}")
    write(log, "next hour", at=NOON + timedelta(hours=1))
    log.feedback(("0", 0, 1.0, NOON))
    state = shipper(s3, root).ship()
    keys = [key for key in s3.objects() if key.endswith(".parquet")]
    assert sorted(key.rpartition("/")[0] for key in keys) == [
        "m/feedback/2026-05-04-12",
        "m/predictions/2026-05-04-12",
        "m/predictions/2026-05-04-13",
    ]
    assert here(root) == []
    assert (state.shipped_segments, state.shipped_rows, state.waiting_segments) == (6, 6, 0)
    assert there(s3, tmp_path) == ["0", "1", "2", "3", "next hour"]


def test_what_is_not_finished_or_no_segment_is_left_alone(s3, root, log):
    write(log, "a")
    folder = root / "m" / "predictions" / "2026-05-04-12"
    (folder / ".staged-x.parquet").write_bytes(b"half")
    (root / "m" / "predictions" / "notes").mkdir()
    (root / "m" / "predictions" / "notes" / "n.parquet").write_bytes(b"mine")
    shipper(s3, root).ship()
    assert (folder / ".staged-x.parquet").exists()
    assert (root / "m" / "predictions" / "notes" / "n.parquet").exists()
    assert len([key for key in s3.objects() if key.endswith(".parquet")]) == 1


def test_every_row_is_there_once_when_the_process_is_killed_at_any_step(s3, root, log, tmp_path, monkeypatch):
    steps = [0, None]

    def killable(function):
        def step(*arguments, **options):
            if steps[0] == steps[1]:
                raise KilledError
            steps[0] += 1
            return function(*arguments, **options)

        return step

    monkeypatch.setattr(traffic_shipping, "write_atomically", killable(traffic_shipping.write_atomically))
    monkeypatch.setattr(Bucket, "create", killable(Bucket.create))
    monkeypatch.setattr(Bucket, "facts", killable(Bucket.facts))
    monkeypatch.setattr(Path, "unlink", killable(Path.unlink))
    written, killed = [], 0
    while True:
        steps[1] = None
        for number in range(2):
            written.append(f"{killed}-{number}")
            write(log, written[-1])
        steps[:] = [0, killed]
        try:
            shipper(s3, root).ship()
        except KilledError:
            killed += 1
        else:
            break
        steps[1] = None
        state = shipper(s3, root).ship()  # the process that follows
        assert here(root) == []
    steps[1] = None
    assert killed >= 12
    assert sorted(there(s3, tmp_path)) == sorted(written)
    assert list((root / ".shipping").iterdir()) == [root / ".shipping" / "state.json"]
    assert state.shipped_rows >= len(written) - 2


def test_a_segment_is_kept_until_s3_shows_the_bytes(s3, root, log, tmp_path):
    write(log, "a")
    s3.proxy.fault = lambda method, path: Fault(status=503) if method == "HEAD" and ".parquet" in path else None
    with pytest.raises(ServiceUnavailableError):
        shipper(s3, root).ship()
    assert len(here(root)) == 1
    (key,) = [key for key in s3.objects() if key.endswith(".parquet")]
    s3.overwrite(key, b"other bytes")
    s3.proxy.fault = lambda method, path: None
    with pytest.raises(InfrastructureError, match="other bytes"):
        shipper(s3, root).ship()
    assert len(here(root)) == 1
    s3.client.delete_object(Bucket=s3.name, Key=f"team/store/{key}")
    shipper(s3, root).ship()
    assert there(s3, tmp_path) == ["a"]
    assert here(root) == []


def test_a_server_without_checksums_is_asked_for_the_bytes(s3, root, log, tmp_path):
    write(log, "a")
    TrafficShipper(s3.bucket(checksums="none"), root, max_waiting_bytes=10**9).ship()
    assert there(s3, tmp_path) == ["a"]
    assert here(root) == []


def test_rows_wait_while_s3_is_away_and_the_oldest_are_lost_and_counted_when_too_many_do(s3, root, log, tmp_path):
    for number in range(6):
        write(log, f"{number}", at=NOON + timedelta(hours=number))
    size = here(root)[0].stat().st_size
    s3.proxy.fault = lambda method, path: Fault(status=503)
    for _ in range(2):
        with pytest.raises(ServiceUnavailableError):
            shipper(s3, root, max_waiting_bytes=3 * size + 10).ship()
    s3.proxy.fault = lambda method, path: None
    state = shipper(s3, root, max_waiting_bytes=3 * size + 10).ship()
    assert (state.lost_rows, state.lost_segments) == (2, 2)
    assert there(s3, tmp_path) == ["0", "3", "4", "5"]  # the first was bundled before the limit was met


def test_segments_of_another_layout_go_into_another_object(s3, root, log, tmp_path):
    write(log, "old")
    log.predictions({"request_id": "new", "cached": True}, extra={"cached": "bool"})
    shipper(s3, root).ship()
    assert len([key for key in s3.objects() if key.endswith(".parquet")]) == 2
    assert sorted(there(s3, tmp_path)) == ["new", "old"]


def test_a_segment_that_cannot_be_read_is_set_aside_and_stops_nothing(s3, root, log, tmp_path):
    write(log, "a")
    broken = here(root)[0].with_name("g-broken.parquet")
    broken.write_bytes(b"no parquet")
    state = shipper(s3, root).ship()
    assert state.damaged_segments == 1
    assert broken.with_name("g-broken.parquet.damaged").exists()
    assert there(s3, tmp_path) == ["a"]


def test_sampled_inputs_keep_the_layout_that_their_metadata_tells(s3, root):
    folder = root / "m" / "inputs" / "2026-05-04-12"
    folder.mkdir(parents=True)
    for number, shape in enumerate((b"[4]", b"[4]", b"[5]")):
        table = pa.table({"request_id": [f"{number}"]}).replace_schema_metadata({b"shape": shape})
        pq.write_table(table, folder / f"g-{number}.parquet")
    shipper(s3, root).ship()
    rows = {}
    for key in s3.objects():
        if key.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(s3.raw(key)))
            rows[table.schema.metadata[b"shape"]] = table.num_rows
    assert rows == {b"[4]": 2, b"[5]": 1}


def test_hours_that_are_empty_and_over_are_removed_here(s3, root, log):
    write(log, "a")
    shipper(s3, root).ship()
    assert list((root / "m" / "predictions").iterdir()) == []
