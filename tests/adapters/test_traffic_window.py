import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.gateway.records import PredictionRecord, prediction_table
from tasks.adapters.traffic_window import read_window
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tests.adapters.traffic_files import DIGEST, NOON, Segments, minutes

POLICY = MonitoringPolicy()


@pytest.fixture
def log(tmp_path):
    return Segments(tmp_path)


def read(log, policy=POLICY, task="classification", since=0, until=60):
    return read_window(log.root, "m", DIGEST, task, minutes(since), minutes(until), policy)


def test_read_window_is_empty_without_a_log(log):
    window = read(log)
    assert (len(window.rows), window.service.requests, len(window.labels.right)) == (0, 0, 0)


def test_read_window_takes_the_champions_answers_of_that_time_only(log):
    log.predictions({"request_id": "early", "at": minutes(-1)})
    log.predictions(
        {"request_id": "first", "at": minutes(0), "prediction": 3.0, "input_mean": 0.25},
        {"request_id": "first", "at": minutes(1), "prediction": 4.0},
        {"request_id": "new", "at": minutes(2), "arm": "challenger", "served_by": "challenger"},
        {"request_id": "fallback", "at": minutes(2), "arm": "challenger", "error": "timeout"},
        {"request_id": "shadow", "at": minutes(2), "shadow": True},
        {"request_id": "other", "at": minutes(3), "model_digest": "e" * 64},
        {"request_id": "late", "at": minutes(60)},
    )
    window = read(log)
    assert window.rows.prediction.tolist() == [3.0]
    assert window.rows.input_mean.tolist() == [0.25]
    assert window.rows.input_sketch.shape == (1, 8)
    assert window.service.requests == 1


def test_read_window_counts_requests_and_keeps_their_latency_by_size(log):
    log.predictions(
        *({"request_id": "batch", "row": n, "latency_ms": 8.0, "batch_rows": 3} for n in range(3)),
        {"request_id": "one", "latency_ms": 2.0},
        {"request_id": "two", "latency_ms": 3.0},
        {"request_id": "failed", "error": "run_failed", "prediction": float("nan")},
    )
    window = read(log)
    assert (window.service.requests, window.service.errors, window.num_rows) == (4, 1, 5)
    assert {size: sorted(values) for size, values in window.service.latencies_ms.items()} == {1: [2.0, 3.0], 3: [8.0]}
    assert np.isfinite(window.rows.prediction).all()


def test_read_window_takes_a_missing_cached_column_as_not_cached(log):
    log.predictions({"request_id": "old"})
    log.predictions(
        {"request_id": "hit", "cached": True}, {"request_id": "miss", "cached": False}, extra={"cached": "bool"}
    )
    service = read(log).service
    assert (service.requests, service.cached, len(read(log).rows)) == (3, 1, 2)
    assert len(service.latencies_ms[1]) == 2


def test_read_window_draws_as_many_rows_of_a_request_as_may_be_taken_for_independent(log):
    log.predictions(*({"request_id": f"r{n % 4}", "row": n // 4, "prediction": float(n)} for n in range(40)))
    assert len(read(log).rows) == 4
    several = read(log, POLICY.model_copy(update={"rows_per_request": 3}))
    assert (len(several.rows), several.num_rows) == (12, 40)
    assert read(log).rows.prediction.tolist() == read(log).rows.prediction.tolist()


def test_read_window_bounds_the_rows(log):
    log.predictions(*({"request_id": f"r{n}"} for n in range(300)))
    assert len(read(log, POLICY.model_copy(update={"max_rows": 100})).rows) == 100


def test_read_window_counts_a_label_in_the_window_in_which_it_arrived(log):
    log.predictions({"request_id": "old", "at": minutes(-90), "prediction": 1.0})
    log.predictions(
        {"request_id": "a", "prediction": 1.0},
        {"request_id": "b", "prediction": 2.0},
        {"request_id": "failed", "error": "timeout", "prediction": float("nan")},
        {"request_id": "unlabelled"},
    )
    log.feedback(("old", 0, 1.0, minutes(-80)))
    log.feedback(("a", 0, 1.0, minutes(10)), ("b", 0, 1.0, minutes(20)), ("failed", 0, 0.0, minutes(30)))
    log.feedback(("b", 0, 2.0, minutes(70)))
    first, second = read(log).labels, read(log, since=60, until=120).labels
    assert sorted(first.right) == [False, False, True]
    assert (first.answered, first.labelled) == (5, 4)
    assert sorted(first.delays_s) == [600.0, 1200.0, 1800.0]
    assert second.right.tolist() == [True]  # the label that was put right counts when it came


def test_read_window_joins_a_label_that_comes_hours_later_and_none_that_comes_too_late(log):
    log.predictions({"request_id": "a", "at": minutes(-60 * 20)})
    log.predictions({"request_id": "b", "at": minutes(-60 * 30)})
    log.feedback(("a", 0, 0.0, NOON), ("b", 0, 0.0, NOON))
    assert read(log).labels.delays_s.tolist() == [20 * 3600.0]


def test_read_window_of_a_regression_needs_to_know_what_counts_as_right(log):
    log.predictions({"request_id": "a", "prediction": 1.05}, {"request_id": "b", "prediction": 1.5})
    log.feedback(("a", 0, 1.0, NOON), ("b", 0, 1.0, NOON))
    assert len(read(log, task="regression").labels.right) == 0
    near = read(log, POLICY.model_copy(update={"correct_within": 0.1}), task="regression").labels
    assert sorted(near.right) == [False, True]


def test_read_window_reads_what_a_gateway_writes(tmp_path):
    signature = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b"))
    route = Route(model_name="m", signature=signature, champion=Arm(digest=DIGEST, version=1))
    inputs = np.random.default_rng(1).random((3, 4)).astype(np.float32)
    record = PredictionRecord(
        route=route, route_version=1, request_id="r", at=round(NOON.timestamp() * 1e6), arm="champion",
        served_by="champion", shadow=False, latency_ms=2.5, error="", inputs=inputs,
        outputs=np.array([[0.0, 2.0], [1.0, 0.0], [0.0, 1.0]], np.float32),
    )  # fmt: skip
    folder = tmp_path / "m" / "predictions" / "2026-05-04-12"
    folder.mkdir(parents=True)
    pq.write_table(prediction_table([record]), folder / "g-1.parquet")
    window = read_window(
        tmp_path, "m", DIGEST, "classification", NOON, minutes(60), POLICY.model_copy(update={"rows_per_request": 3})
    )
    assert sorted(window.rows.input_mean) == pytest.approx(sorted(inputs.mean(axis=1, dtype=np.float64)))
    assert window.rows.input_sketch.shape == (3, 8)
    assert window.service.latencies_ms[3].tolist() == [2.5]


def test_read_window_names_a_segment_that_is_damaged_or_of_another_layout(log):
    path = log.predictions({"request_id": "a"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(InfrastructureError, match=path.name):
        read(log)
    pq.write_table(pa.table({"request_id": ["a"]}), path)
    with pytest.raises(DataError, match="confidence"):
        read(log)
