from datetime import timedelta

import pytest

from tasks.adapters.traffic_retention import logged_models, prune_model
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
    done = prune_model(log.root, "m", NOON - timedelta(days=2), "two days")
    kept = hours(log)
    assert kept == [hour for hour in before if hour >= "2026-05-02-10"]
    assert hours(log, "feedback") == kept
    assert (done.folders, done.files, done.dry_run) == (2 * (16 - len(kept)), 2 * (16 - len(kept)), False)
    assert done.size_bytes > 0
    assert prune_model(log.root, "m", NOON - timedelta(days=2), "two days").folders == 0


def test_prune_model_removes_nothing_when_dry(log):
    before = hours(log)
    dry = prune_model(log.root, "m", NOON - timedelta(days=2), "two days", dry_run=True)
    assert hours(log) == before
    assert dry.folders == prune_model(log.root, "m", NOON - timedelta(days=2), "two days").folders > 0


def test_prune_model_finishes_what_a_crash_left_and_leaves_other_things_alone(log):
    left = log.root / "m" / ".removing-predictions-2026-04-01-00-abc"
    left.mkdir()
    (left / "g-1.parquet").write_bytes(b"half removed")
    strange = log.root / "m" / "predictions" / "notes"
    strange.mkdir()
    prune_model(log.root, "m", NOON - timedelta(days=2), "two days")
    assert not left.exists()
    assert strange.exists()


def test_logged_models_are_those_with_predictions(log):
    (log.root / "empty").mkdir()
    assert logged_models(log.root) == ["m"]
