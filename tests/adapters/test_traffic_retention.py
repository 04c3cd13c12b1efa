from datetime import timedelta
from pathlib import Path

import pytest

from tasks.adapters.traffic_retention import logged_models, prune_model
from tasks.decisions.log_retention import Limits
from tests.adapters.traffic_files import NOON, Segments


@pytest.fixture
def log(tmp_path):
    segments = Segments(tmp_path)
    for hours in range(0, 96, 6):
        segments.predictions({"request_id": f"{hours}", "at": NOON - timedelta(hours=hours)})
        segments.feedback((f"{hours}", 0, 1.0, NOON - timedelta(hours=hours)))
    return segments


def hours(log, name="predictions"):
    return sorted(path.name for path in (log.root / "m" / name).glob("*"))


def test_prune_model_removes_hours_that_are_surely_older_and_counts_them(log):
    before = hours(log)
    done = prune_model(log.root, "m", Limits(NOON - timedelta(days=2), "two days"))
    kept = hours(log)
    assert kept == [hour for hour in before if hour >= "2026-05-02-10"]
    assert hours(log, "feedback") == kept
    assert (done.folders, done.files, done.dry_run) == (2 * (16 - len(kept)), 2 * (16 - len(kept)), False)
    assert done.size_bytes > 0
    assert prune_model(log.root, "m", Limits(NOON - timedelta(days=2), "two days")).folders == 0


def test_prune_model_removes_nothing_when_dry(log):
    before = hours(log)
    dry = prune_model(log.root, "m", Limits(NOON - timedelta(days=2), "two days"), dry_run=True)
    assert hours(log) == before
    assert dry.folders == prune_model(log.root, "m", Limits(NOON - timedelta(days=2), "two days")).folders > 0


def test_prune_model_finishes_what_a_crash_left_and_leaves_other_things_alone(log):
    left = log.root / "m" / ".removing-predictions-2026-04-01-00-abc"
    left.mkdir()
    (left / "g-1.parquet").write_bytes(b"half removed")
    strange = log.root / "m" / "predictions" / "notes"
    strange.mkdir()
    prune_model(log.root, "m", Limits(NOON - timedelta(days=2), "two days"))
    assert not left.exists()
    assert strange.exists()


def test_logged_models_are_those_with_predictions(log):
    (log.root / "empty").mkdir()
    assert logged_models(log.root) == ["m"]


def log_size(log):
    return sum(path.stat().st_size for path in (log.root / "m").rglob("*.parquet"))


def test_prune_model_removes_the_oldest_hours_of_all_logs_until_the_rest_is_small_enough(log):
    before, size = hours(log), log_size(log)
    done = prune_model(log.root, "m", Limits(None, "age removes nothing", max_bytes=size // 2))
    kept = hours(log)
    assert kept == hours(log, "feedback") == before[-len(kept) :]
    assert len(kept) == len(before) // 2
    assert log_size(log) == done.kept_bytes <= size // 2
    assert done.size_bytes == size - done.kept_bytes
    assert f"at most {size // 2} bytes" in done.kept_because
    removed = before[-len(kept) - 1]
    assert done.kept_from.startswith(f"{removed[:10]}T{int(removed[11:]) + 1:02d}:00")


def test_prune_model_keeps_what_is_needed_however_many_bytes_it_is_and_says_so(log):
    limits = Limits(NOON - timedelta(days=3), "days", max_bytes=0, needed_from=NOON - timedelta(days=1))
    done = prune_model(log.root, "m", limits)
    assert hours(log)[0] == "2026-05-03-12", "two hours earlier would do, and the log has none there"
    assert done.kept_bytes == log_size(log) > 0
    assert f"{done.kept_bytes} bytes beyond the 0" in done.kept_because


def test_prune_model_removes_by_age_alone_when_the_rest_is_small_enough(log):
    done = prune_model(log.root, "m", Limits(NOON - timedelta(days=2), "two days", max_bytes=log_size(log)))
    assert hours(log)[0] >= "2026-05-02-10"
    assert (done.kept_because, done.kept_bytes) == ("two days", log_size(log))


def test_prune_model_bears_with_a_file_that_its_gateway_has_just_finished(log, monkeypatch):
    real = Path.iterdir

    def iterdir(folder):
        yield from real(folder)
        if folder.name.startswith("2026"):
            yield folder / ".staged-gone"

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert prune_model(log.root, "m", Limits(NOON, "x"), dry_run=True).files > 0
