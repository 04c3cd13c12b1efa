from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.adapters.traffic import TrafficLog
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.contracts.traffic import FEEDBACK_COLUMNS, PREDICTION_COLUMNS
from tasks.decisions.experiment import PairedCounts

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
DEFAULTS = {
    "request_id": "a", "row": 0, "at": NOON, "route_version": 1, "rollout_id": "r", "arm": "champion",
    "served_by": "champion", "shadow": False, "model_digest": "d", "model_version": 1, "latency_ms": 1.0,
    "batch_rows": 1, "error": "", "prediction": 0.0, "confidence": 0.9, "margin": 0.8, "input_mean": 0.0,
    "input_std": 1.0, "input_sketch": [0.0] * 8, "cached": False,
}  # fmt: skip
TYPES = {
    "string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
    "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"), "list<float32>": pa.list_(pa.float32()),
}  # fmt: skip


class Log:
    """Writes segments as a gateway does."""

    def __init__(self, root):
        self.root = root
        self._numbers = count()

    def predictions(self, *rows, hour="2026-05-04-12", replica="g"):
        return self._write("predictions", PREDICTION_COLUMNS, [DEFAULTS | row for row in rows], hour, replica)

    def feedback(self, *labels, hour="2026-05-04-12"):
        """Each label is (request id, row, label, seconds after noon)."""
        rows = [
            {"request_id": name, "row": row, "label": label, "at": NOON + timedelta(seconds=seconds)}
            for name, row, label, seconds in labels
        ]
        return self._write("feedback", FEEDBACK_COLUMNS, rows, hour, "g")

    def _write(self, log, columns, rows, hour, replica):
        path = self.root / "m" / log / hour / f"{replica}-{next(self._numbers)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([(name, TYPES[kind]) for name, kind in columns.items()])
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
        return path


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.fixture
def reader(tmp_path):
    return TrafficLog(tmp_path)


def row(request_id, **changes):
    return {"request_id": request_id} | changes


def test_observe_is_empty_when_there_is_no_log(reader):
    assert reader.observe("m", "r", {1: 5.0}).steps == ()


def test_observe_counts_both_arms_of_a_step(log, reader):
    log.predictions(
        row("a", latency_ms=1.0, prediction=1.0),
        row("b", latency_ms=2.0, prediction=2.0),
        row("c", arm="challenger", served_by="challenger", latency_ms=3.0, prediction=1.0),
    )
    log.feedback(("a", 0, 1.0, 0), ("b", 0, 1.0, 0), ("c", 0, 1.0, 0), ("unknown", 0, 1.0, 0))
    (step,) = reader.observe("m", "r", {1: 5.0}).steps
    assert step.weight == 5.0
    champion, challenger = step.champion, step.challenger
    assert (champion.requests, champion.errors, champion.rows, champion.labelled, champion.correct) == (2, 0, 2, 2, 1)
    assert sorted(champion.latencies_ms) == [1.0, 2.0]
    assert (challenger.requests, challenger.rows, challenger.labelled, challenger.correct) == (1, 1, 1, 1)
    assert step.paired.total == 0


def test_observe_counts_a_fallback_as_the_challengers_failure(log, reader):
    log.predictions(
        row("a", arm="challenger", served_by="champion", error="timeout", prediction=1.0),
        row("b", arm="challenger", served_by="challenger", prediction=1.0),
    )
    log.feedback(("a", 0, 1.0, 0), ("b", 0, 1.0, 0))
    (step,) = reader.observe("m", "r", {1: 5.0}).steps
    arm = step.challenger
    assert (arm.requests, arm.errors, arm.labelled, arm.correct) == (2, 1, 2, 1)
    assert len(arm.latencies_ms) == 1
    assert step.champion.requests == 0


def test_observe_counts_rows_and_requests_apart_when_a_request_has_several_rows(log, reader):
    log.predictions(*(row("a", row=n, latency_ms=4.0, batch_rows=3, prediction=float(n)) for n in range(3)))
    log.feedback(("a", 0, 0.0, 0), ("a", 2, 1.0, 0))
    arm = reader.observe("m", "r", {1: 5.0}).at(5.0).champion
    assert (arm.requests, arm.rows, arm.labelled, arm.correct) == (1, 3, 2, 1)
    assert arm.latencies_ms.tolist() == [4.0]


def test_observe_puts_rows_to_the_step_of_their_route_version(log, reader):
    log.predictions(row("a", route_version=2), row("b", route_version=3), row("c", route_version=4))
    observation = reader.observe("m", "r", {2: 5.0, 3: 25.0, 4: 5.0})
    assert [(step.weight, step.champion.requests) for step in observation.steps] == [(5.0, 2), (25.0, 1)]


def test_observe_pairs_both_arms_answers_when_shadowing(log, reader):
    shadow = {"arm": "challenger", "served_by": "challenger", "shadow": True}
    pairs = {"a": (1.0, 1.0), "b": (1.0, 0.0), "c": (0.0, 1.0), "d": (0.0, 0.0), "e": (1.0, 0.0), "f": (1.0, 1.0)}
    for name, (old, new) in pairs.items():
        log.predictions(row(name, prediction=old), row(name, prediction=new, **shadow))
    log.predictions(row("alone", prediction=1.0))
    log.feedback(*((name, 0, 1.0, 0) for name in [*"abcde", "alone"]))
    (step,) = reader.observe("m", "r", {1: 0.0}).steps
    assert step.paired == PairedCounts(both_right=1, only_champion=2, only_challenger=1, both_wrong=1)
    assert (step.champion.requests, step.challenger.requests) == (7, 6)
    assert (step.champion.correct, step.challenger.correct) == (4, 2)


def test_observe_leaves_shadows_out_when_the_step_has_weight(log, reader):
    log.predictions(row("a"), row("a", arm="challenger", shadow=True))
    (step,) = reader.observe("m", "r", {1: 5.0}).steps
    assert (step.champion.requests, step.challenger.requests) == (1, 0)


def test_observe_leaves_cached_answers_out_of_every_count(log, reader):
    log.predictions(
        row("a", latency_ms=5.0, prediction=1.0),
        row("b", latency_ms=0.01, prediction=1.0, cached=True),
        row("c", arm="challenger", cached=True, prediction=1.0),
    )
    log.feedback(*((name, 0, 1.0, 0) for name in "abc"))
    (step,) = reader.observe("m", "r", {1: 5.0}).steps
    assert (step.champion.requests, step.champion.rows, step.champion.labelled, step.champion.correct) == (1, 1, 1, 1)
    assert step.champion.latencies_ms.tolist() == [5.0]
    assert step.challenger.requests == 0


def test_observe_counts_the_run_of_a_request_that_was_sent_again_and_then_cached(log, reader):
    log.predictions(row("a", prediction=1.0), row("a", cached=True, at=NOON + timedelta(seconds=1)))
    assert reader.observe("m", "r", {1: 5.0}).at(5.0).champion.requests == 1


def test_a_segment_without_the_later_columns_is_read_as_not_cached(log, reader):
    path = log.predictions(row("a"), row("b"))
    pq.write_table(pq.read_table(path).drop_columns(["cached"]), path)
    log.predictions(row("c", cached=True))
    assert reader.predictions("m")["cached"].to_pylist() == [False, False, True]
    assert reader.observe("m", "r", {1: 5.0}).at(5.0).champion.requests == 2


def test_observe_leaves_other_rollouts_out(log, reader):
    log.predictions(row("a"), row("b", rollout_id="old", route_version=0), row("c", rollout_id=None, route_version=9))
    assert reader.observe("m", "r", {1: 5.0}).at(5.0).champion.requests == 1


def test_observe_takes_the_last_label_of_a_row(log, reader):
    log.predictions(row("a", prediction=1.0), row("b", prediction=1.0))
    log.feedback(("a", 0, 0.0, 1), ("b", 0, 1.0, 1))
    log.feedback(("b", 0, 0.0, 5), ("a", 0, 1.0, 5))
    log.feedback(("b", 0, 1.0, 3))
    arm = reader.observe("m", "r", {1: 5.0}).at(5.0).champion
    assert (arm.labelled, arm.correct) == (2, 1)


def test_observe_counts_a_repeated_request_id_once_by_its_first_answer(log, reader):
    later = NOON + timedelta(seconds=9)
    log.predictions(row("a", prediction=0.0, latency_ms=7.0, at=later, error="timeout"))
    log.predictions(row("a", prediction=1.0, latency_ms=2.0))
    log.feedback(("a", 0, 1.0, 0))
    arm = reader.observe("m", "r", {1: 5.0}).at(5.0).champion
    assert (arm.requests, arm.errors, arm.rows, arm.labelled, arm.correct) == (1, 0, 1, 1, 1)
    assert arm.latencies_ms.tolist() == [2.0]


def test_observe_counts_a_number_as_correct_when_it_is_near_enough(log, reader):
    log.predictions(row("a", prediction=1.05), row("b", prediction=1.2))
    log.feedback(("a", 0, 1.0, 0), ("b", 0, 1.0, 0))
    near = reader.observe("m", "r", {1: 5.0}, task="regression", correct_within=0.1).at(5.0).champion
    assert (near.labelled, near.correct) == (2, 1)
    unknown = reader.observe("m", "r", {1: 5.0}, task="regression").at(5.0).champion
    assert (unknown.rows, unknown.labelled) == (2, 0)


def test_observe_names_the_route_version_when_its_weight_is_not_known(log, reader):
    log.predictions(row("a", route_version=7))
    with pytest.raises(DataError, match=r"\[7\]"):
        reader.observe("m", "r", {1: 5.0})


def test_observe_agrees_with_counting_by_hand_when_rows_are_many(log, reader):
    rng = np.random.default_rng(0)
    rows, labels = [], []
    expected = {name: [0, 0, 0] for name in ("champion", "challenger")}
    for n in range(500):
        arm = "challenger" if rng.random() < 0.3 else "champion"
        prediction, label, failed = float(rng.integers(3)), float(rng.integers(3)), rng.random() < 0.1
        rows.append(row(f"{n}", arm=arm, prediction=prediction, error="run_failed" if failed else ""))
        labels.append((f"{n}", 0, label, 0))
        expected[arm][0] += 1
        expected[arm][1] += failed
        expected[arm][2] += prediction == label and not failed
    for part in range(5):
        log.predictions(*rows[part::5], replica=f"g{part}")
        log.feedback(*labels[part::5])
    (step,) = reader.observe("m", "r", {1: 30.0}).steps
    for name, arm in (("champion", step.champion), ("challenger", step.challenger)):
        assert [arm.requests, arm.errors, arm.correct] == expected[name]


def test_segments_are_read_once_and_new_ones_are_found(log, reader):
    path = log.predictions(row("a"))
    assert reader.observe("m", "r", {1: 5.0}).at(5.0).champion.requests == 1
    path.write_bytes(b"never looked at again")
    log.predictions(row("b"))
    assert reader.observe("m", "r", {1: 5.0}).at(5.0).champion.requests == 2


def test_predictions_gives_the_window_oldest_first(log, reader):
    hours = [NOON + timedelta(hours=n) for n in range(6)]
    for n in (3, 0, 5, 1, 4, 2):
        log.predictions(row(f"{n}", at=hours[n]), hour=hours[n].strftime("%Y-%m-%d-%H"))
    log.predictions(row("late", at=hours[2]), hour=hours[3].strftime("%Y-%m-%d-%H"))
    table = reader.predictions("m", since=hours[1], until=hours[3])
    assert table["request_id"].to_pylist() == ["1", "2", "late"]
    assert table.column_names == list(PREDICTION_COLUMNS)
    assert reader.feedback("m").column_names == list(FEEDBACK_COLUMNS)


def test_a_damaged_segment_is_named(log, reader):
    path = log.predictions(row("a"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InfrastructureError, match=path.name):
        reader.predictions("m")


def test_a_segment_of_another_layout_is_named(tmp_path, reader):
    path = tmp_path / "m" / "predictions" / "2026-05-04-12" / "g-1.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"request_id": ["a"]}), path)
    with pytest.raises(DataError, match="arm"):
        reader.predictions("m")


def test_a_segment_that_is_being_written_is_left_alone(tmp_path, log, reader):
    log.predictions(row("a"))
    (tmp_path / "m" / "predictions" / "2026-05-04-12" / ".staged-x.parquet").write_bytes(b"half")
    assert reader.predictions("m").num_rows == 1


def test_answers_to_gives_one_answer_for_each_model_with_its_rows(log, reader):
    log.predictions({"row": 0}, {"row": 1}, {"request_id": "b"})
    log.predictions({"shadow": True, "model_digest": "e", "model_version": 2, "served_by": "challenger"}, replica="h")

    first, second = reader.answers_to("a")

    assert (first.model_name, first.model_digest, first.num_rows, first.shadow) == ("m", "d", 2, False)
    assert (second.model_digest, second.model_version, second.shadow) == ("e", 2, True)
    assert first.at == "2026-05-04T12:00:00.000+00:00"


def test_answers_to_is_empty_when_nobody_logged_the_request(log, reader):
    assert reader.answers_to("a") == []
    log.predictions({"request_id": "b"})
    assert reader.answers_to("a") == []
