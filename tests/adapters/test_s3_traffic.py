from datetime import timedelta

import pytest

from tasks.adapters.s3_traffic import S3Traffic, segment_key
from tasks.adapters.traffic import TrafficLog
from tasks.adapters.traffic_shipping import TrafficShipper
from tasks.contracts.errors import ArtifactCorruptError
from tasks.decisions.log_retention import Limits
from tests.adapters.traffic_files import NOON, Segments


@pytest.fixture
def traffic(s3, tmp_path):
    """A log of 8 hours of model `m`, and one of model `n`."""
    root = tmp_path / "traffic"
    log = Segments(root)
    for hours in range(8):
        log.predictions({"request_id": f"{hours}", "at": NOON - timedelta(hours=hours)})
        log.feedback((f"{hours}", 0, 1.0, NOON - timedelta(hours=hours)))
    Segments(root, "n").predictions({"request_id": "other"})
    TrafficShipper(s3.bucket(), root, max_waiting_bytes=10**9).ship()
    s3.proxy.seen.clear()
    return S3Traffic(s3.bucket(), tmp_path / "copy")


def downloads(s3):
    return [path for method, path in s3.proxy.seen if method == "GET" and ".parquet" in path]


def ids(traffic, **window):
    return sorted(TrafficLog(traffic.folder("m", **window)).predictions("m")["request_id"].to_pylist())


def test_folder_holds_the_log_of_one_model_and_fetches_each_segment_once(s3, traffic):
    assert ids(traffic) == [f"{hours}" for hours in range(8)]
    assert len(downloads(s3)) == 16
    assert ids(traffic) == [f"{hours}" for hours in range(8)]
    assert len(downloads(s3)) == 16


def test_folder_fetches_no_hour_that_is_surely_older_than_asked_for(s3, traffic):
    assert ids(traffic, since=NOON) == ["0", "1", "2"]
    assert len(downloads(s3)) == 6


def test_models_are_those_with_predictions_and_a_request_is_found_whatever_its_model(traffic, s3):
    s3.overwrite("checks/one-writer/an-address", b"")
    assert traffic.models() == ["m", "n"]
    assert [answer.model_name for answer in TrafficLog(traffic.folder()).answers_to("other")] == ["n"]


def test_folder_refuses_a_segment_whose_bytes_changed(s3, traffic):
    key = next(key for key in s3.objects() if "predictions" in key)
    s3.overwrite(key, b"other")
    with pytest.raises(ArtifactCorruptError, match=key):
        traffic.folder("m")


def test_folder_reads_nothing_that_no_gateway_wrote(s3, traffic):
    for key in ("m/predictions/notes/a.parquet", segment_key("m", "predictions", "2026-99-99-99", "g", "a" * 64)):
        s3.overwrite(key, b"mine")
    assert len(ids(traffic)) == 8


def test_prune_removes_old_hours_there_and_the_next_look_removes_them_here(s3, traffic):
    assert len(ids(traffic)) == 8
    dry = traffic.prune("m", Limits(NOON - timedelta(hours=3), "three hours"), dry_run=True)
    assert len(ids(traffic)) == 8
    done = traffic.prune("m", Limits(NOON - timedelta(hours=3), "three hours"))
    assert (done.folders, done.files) == (dry.folders, dry.files) == (4, 4)
    assert done.size_bytes > 0
    assert ids(traffic, since=NOON) == [f"{hours}" for hours in range(6)]
    assert traffic.prune("m", Limits(NOON - timedelta(hours=3), "three hours")).files == 0


def test_prune_removes_the_oldest_hours_there_until_the_rest_is_small_enough(traffic):
    size = traffic.prune("m", Limits(None, "nothing is asked"), dry_run=True).kept_bytes
    done = traffic.prune("m", Limits(None, "nothing is asked", max_bytes=size // 2))
    assert 0 < done.kept_bytes <= size // 2
    assert done.kept_bytes + done.size_bytes == size
    assert traffic.prune("m", Limits(None, "nothing is asked"), dry_run=True).kept_bytes == done.kept_bytes
