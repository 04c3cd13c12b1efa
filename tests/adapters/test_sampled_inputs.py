from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.gateway.records import FeedbackRecord, feedback_table
from infra.gateway.sampling import InputRecord, input_table
from tasks.adapters.sampled_inputs import read_labelled_inputs
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.contracts.route import ModelSignature

SIGNATURE = ModelSignature(task="classification", input_shape=(2,), input_dtype="float32", class_names=("a", "b", "c"))
SECOND = 1_000_000


def write(root, log, table, segment=0):
    path = root / "m" / log / "2026-01-01-00" / f"r-{segment}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def inputs(*rows):
    """Each is (request id, at in seconds, values of its rows)."""
    return input_table([InputRecord("m", name, at * SECOND, np.array(x, np.float32)) for name, at, x in rows])


def labels(*rows):
    return feedback_table([FeedbackRecord("m", name, at * SECOND, list(given)) for name, at, given in rows])


def test_read_labelled_inputs_joins_by_request_and_row_and_leaves_out_rows_without_label(tmp_path):
    write(tmp_path, "inputs", inputs(("p", 2, [[1, 2], [3, 4]]), ("q", 1, [[5, 6]]), ("r", 3, [[7, 8]])))
    write(tmp_path, "feedback", labels(("p", 9, [0.0, None]), ("q", 9, [2.0])))

    found = read_labelled_inputs(tmp_path, "m", SIGNATURE)

    assert found.x.dtype == np.float32
    assert found.x.tolist() == [[5, 6], [1, 2]], "oldest first"
    assert found.y.tolist() == [2, 0]
    assert found.unlabelled == 2


def test_read_labelled_inputs_takes_the_last_label_of_all_segments(tmp_path):
    write(tmp_path, "inputs", inputs(("p", 1, [[1, 2]])))
    for segment, (at, label) in enumerate([(8, 1.0), (9, 2.0), (5, 0.0)]):
        write(tmp_path, "feedback", labels(("p", at, [label])), segment)

    assert read_labelled_inputs(tmp_path, "m", SIGNATURE).y.tolist() == [2]


def test_read_labelled_inputs_counts_a_repeated_row_once_and_leaves_out_an_id_that_stood_for_two(tmp_path):
    write(tmp_path, "inputs", inputs(("same", 1, [[1, 2]]), ("two", 1, [[3, 4]])), 0)
    write(tmp_path, "inputs", inputs(("same", 2, [[1, 2]]), ("two", 2, [[9, 9]])), 1)
    write(tmp_path, "feedback", labels(("same", 9, [1.0]), ("two", 9, [2.0])))

    found = read_labelled_inputs(tmp_path, "m", SIGNATURE)

    assert (found.x.tolist(), found.ambiguous) == ([[1, 2]], 2)


def test_read_labelled_inputs_takes_requests_since_a_moment(tmp_path):
    write(tmp_path, "inputs", inputs(("p", 1, [[1, 2]]), ("q", 5, [[3, 4]])))
    write(tmp_path, "feedback", labels(("p", 9, [1.0]), ("q", 9, [2.0])))

    found = read_labelled_inputs(tmp_path, "m", SIGNATURE, since=datetime.fromtimestamp(5, UTC))

    assert found.x.tolist() == [[3, 4]]


def test_read_labelled_inputs_is_empty_when_nothing_was_sampled(tmp_path):
    write(tmp_path, "feedback", labels(("p", 9, [1.0])))

    found = read_labelled_inputs(tmp_path, "m", SIGNATURE)

    assert (found.x.shape, found.y.shape) == ((0, 2), (0,))


def test_read_labelled_inputs_names_the_segment_of_another_layout(tmp_path):
    write(tmp_path, "inputs", input_table([InputRecord("m", "p", 1, np.zeros((1, 3), np.float32))]))

    with pytest.raises(DataError, match=r"r-0\.parquet holds rows float32\[3\], but the model takes float32\[2\]"):
        read_labelled_inputs(tmp_path, "m", SIGNATURE)


def test_read_labelled_inputs_names_a_segment_that_is_damaged_or_of_another_kind(tmp_path):
    write(tmp_path, "inputs", labels(("p", 9, [1.0])))
    with pytest.raises(DataError, match="lacks the columns"):
        read_labelled_inputs(tmp_path, "m", SIGNATURE)

    (tmp_path / "m" / "inputs" / "2026-01-01-00" / "r-0.parquet").write_bytes(b"cut")
    with pytest.raises(InfrastructureError, match=r"r-0\.parquet cannot be read"):
        read_labelled_inputs(tmp_path, "m", SIGNATURE)
