import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.gateway.records import PredictionRecord
from infra.gateway.sampling import InputRecord, input_table, sampling
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.contracts.sampled_inputs import DTYPE_KEY, INPUT_COLUMNS, SHAPE_KEY, is_sampled

ROUTE = Route(
    model_name="digits",
    signature=ModelSignature(task="regression", input_shape=(4,), input_dtype="float32", class_names=()),
    champion=Arm(digest="a" * 64, version=1),
)


def answered(request_id):
    rows = np.zeros((2, 4), np.float32)
    return PredictionRecord(ROUTE, 1, request_id, 5, "champion", "champion", False, 1.0, "", rows, None)


def test_sampling_is_the_plain_recorder_when_no_share_is_asked_for():
    recorded = []
    assert sampling(recorded.append, lambda record: pytest.fail("kept"), 0.0) == recorded.append


def test_sampling_records_every_request_and_keeps_the_sampled_ones():
    recorded, kept = [], []
    record = sampling(recorded.append, kept.append, 0.3)
    for number in range(200):
        record(answered(f"r{number}"))
    assert len(recorded) == 200
    assert [one.request_id for one in kept] == [f"r{n}" for n in range(200) if is_sampled(f"r{n}", 0.3)]
    assert 30 < len(kept) < 90
    assert {one.num_rows for one in kept} == {2}


def test_input_table_keeps_the_rows_bytes_and_says_what_they_are():
    rng = np.random.default_rng(0)
    records = [InputRecord("m", name, 7, rng.random((n, 2, 3), np.float32)) for name, n in (("a", 2), ("b", 1))]
    table = input_table(records)
    assert table.column_names == list(INPUT_COLUMNS)
    assert {field.name: str(field.type) for field in table.schema} == {
        "request_id": "string", "row": "int64", "at": "timestamp[us, tz=UTC]", "input": "binary",
    }  # fmt: skip
    assert table["request_id"].to_pylist() == ["a", "a", "b"]
    assert table["row"].to_pylist() == [0, 1, 0]
    assert table.schema.metadata[DTYPE_KEY] == b"float32"
    assert json.loads(table.schema.metadata[SHAPE_KEY]) == [2, 3]
    restored = np.frombuffer(b"".join(table["input"].to_pylist()), np.float32).reshape(3, 2, 3)
    np.testing.assert_array_equal(restored, np.concatenate([record.inputs for record in records]))


def test_input_table_refuses_rows_of_two_shapes():
    records = [InputRecord("m", "a", 7, np.zeros((1, 4), np.float32)), InputRecord("m", "b", 8, np.zeros((1, 5)))]
    with pytest.raises(ValueError, match="a segment holds one of them"):
        input_table(records)


def test_gateway_logs_inputs_only_when_a_share_is_asked_for(start, site, models):
    x = np.random.default_rng(1).random((3, 4), dtype=np.float32)
    for share, replica in ((0.0, "off"), (1.0, "on")):
        gateway = start(replica=replica, sample_inputs=share)
        site.wait_for(site.route(site.put(models.linear())), replica)
        gateway.infer(x, f"id-{replica}")
        gateway.stop()
    (segment,) = site.traffic.glob("digits/inputs/*/*.parquet")
    assert segment.name.startswith("on-")
    assert pq.read_table(segment)["request_id"].to_pylist() == ["id-on"] * 3
    assert pq.read_table(segment)["input"].to_pylist() == [row.tobytes() for row in x]


def test_gateway_counts_inputs_as_lost_when_their_memory_is_full_and_answers_all_the_same(start, site, models):
    gateway = start(sample_inputs=1.0, input_buffer_bytes=10)
    site.wait_for(site.route(site.put(models.linear())))
    assert gateway.infer(np.zeros((3, 4), np.float32)).status_code == 200
    assert 'stillhouse_gateway_log_rows_total{log="inputs",outcome="lost"} 3.0' in gateway.http.get("/metrics").text
    gateway.stop()
    assert len(site.log()) == 3
    assert not list(site.traffic.glob("digits/inputs/*/*.parquet"))
