import numpy as np
import pyarrow as pa
import pytest

from infra.gateway.records import (
    FeedbackRecord,
    PredictionRecord,
    feedback_table,
    prediction_table,
    sketch_of,
)
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.contracts.traffic import FEEDBACK_COLUMNS, PREDICTION_COLUMNS

ROUTE = Route(
    model_name="m",
    signature=ModelSignature(
        task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c")
    ),
    champion=Arm(digest="1" * 64, version=1),
    challenger=Arm(digest="2" * 64, version=2),
    rollout_id="r",
)


def record(request_id, inputs, outputs, **changes):
    values = {
        "route": ROUTE,
        "route_version": 3,
        "request_id": request_id,
        "at": 1_700_000_000_000_000,
        "arm": "champion",
        "served_by": "champion",
        "shadow": False,
        "latency_ms": 0.5,
        "error": "",
        "inputs": inputs,
        "outputs": outputs,
    }
    return PredictionRecord(**(values | changes))


def type_name(kind):
    return (
        "list<float32>"
        if pa.types.is_list(kind)
        else {"double": "float64"}.get(str(kind), str(kind)).replace("tz=", "")
    )


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (prediction_table([record("a", np.zeros((1, 4), np.float32), np.zeros((1, 3)))]), PREDICTION_COLUMNS),
        (feedback_table([FeedbackRecord("m", "a", 1, [1.0])]), FEEDBACK_COLUMNS),
        (feedback_table([FeedbackRecord("m", "a", 1, [None])]), FEEDBACK_COLUMNS),
    ],
)
def test_tables_have_exactly_the_columns_of_the_contract(table, columns):
    found = {field.name: type_name(field.type) for field in table.schema}
    assert {name: kind.replace("bool", "bool") for name, kind in found.items()} == columns


def test_prediction_table_has_a_row_for_each_row_of_each_request_when_requests_differ():
    rng = np.random.default_rng(0)
    first, second, failed = rng.normal(size=(2, 4)), rng.normal(size=(3, 4)), rng.normal(size=(1, 4))
    logits = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3))]
    rows = prediction_table(
        [
            record("a", first, logits[0]),
            record("b", second, logits[1], arm="challenger", served_by="challenger"),
            record("c", failed, None, error="run_failed"),
        ]
    ).to_pylist()
    assert [(row["request_id"], row["row"], row["batch_rows"]) for row in rows] == [
        ("a", 0, 2), ("a", 1, 2), ("b", 0, 3), ("b", 1, 3), ("b", 2, 3), ("c", 0, 1),
    ]  # fmt: skip
    assert [row["model_version"] for row in rows] == [1, 1, 2, 2, 2, 1]
    assert {row["rollout_id"] for row in rows} == {"r"}
    assert [row["prediction"] for row in rows[:5]] == np.concatenate(logits).argmax(axis=1).tolist()
    assert np.isnan(rows[5]["prediction"])
    means = np.concatenate([first, second, failed]).mean(axis=1)
    np.testing.assert_allclose([row["input_mean"] for row in rows], means)


def test_prediction_table_takes_over_the_sketches_that_are_known_and_makes_the_others():
    rng = np.random.default_rng(1)
    inputs = [rng.normal(size=(count, 4)).astype(np.float32) for count in (1, 3, 2, 1, 2)]
    logits = [rng.normal(size=(len(rows), 3)) for rows in inputs]
    read = [record(f"{n}", *pair) for n, pair in enumerate(zip(inputs, logits, strict=True))]
    mixed = [one._replace(inputs=None, sketch=sketch_of(one.inputs)) if n % 2 else one for n, one in enumerate(read)]
    expected, found = prediction_table(read).to_pylist(), prediction_table(mixed).to_pylist()
    sketches = [[row.pop("input_sketch") for row in rows] for rows in (expected, found)]
    np.testing.assert_allclose(*sketches, rtol=1e-6)
    assert found == expected
    assert [one.num_rows for one in mixed] == [1, 3, 2, 1, 2]


def test_prediction_table_sketches_inputs_in_blocks_as_it_would_at_once(monkeypatch):
    rng = np.random.default_rng(2)
    records = [record(f"{n}", rng.normal(size=(n % 4 + 1, 4)), rng.normal(size=(n % 4 + 1, 3))) for n in range(30)]
    expected = prediction_table(records).to_pylist()
    monkeypatch.setattr("infra.gateway.records._BLOCK_BYTES", 5 * 4 * 8)
    found = prediction_table(records).to_pylist()
    sketches = [[row.pop("input_sketch") for row in rows] for rows in (expected, found)]
    np.testing.assert_allclose(*sketches, rtol=1e-6)
    assert found == expected


def test_prediction_table_keeps_texts_that_are_not_ascii_and_those_that_are_not_there():
    route = ROUTE.model_copy(update={"rollout_id": None})
    records = [
        record("ä", np.ones((1, 4)), np.ones((1, 3))),
        record("b", np.ones((2, 4)), np.ones((2, 3)), route=route),
    ]
    rows = prediction_table(records).to_pylist()
    assert [(row["request_id"], row["rollout_id"]) for row in rows] == [("ä", "r"), ("b", None), ("b", None)]


def test_feedback_table_leaves_out_labels_that_are_not_known():
    rows = feedback_table([FeedbackRecord("m", "a", 5, [2.0, None, 1.0])]).to_pylist()
    assert [(row["request_id"], row["row"], row["label"]) for row in rows] == [("a", 0, 2.0), ("a", 2, 1.0)]
