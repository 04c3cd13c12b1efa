"""What is recorded of requests, and its form as Arrow tables with the columns of `tasks.contracts.traffic`."""

import itertools
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.contracts.route import Arm, ArmName, Route
from tasks.contracts.traffic import FEEDBACK_COLUMNS, PREDICTION_COLUMNS
from tasks.decisions.sketch import SKETCH_SIZE, judge_outputs, sketch_inputs

_ARROW_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
    "list<float32>": pa.list_(pa.float32()),
}
_PREDICTIONS = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in PREDICTION_COLUMNS.items()])
_FEEDBACK = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in FEEDBACK_COLUMNS.items()])

_REQUEST_COLUMNS: dict[str, Callable[["PredictionRecord"], object]] = {
    "request_id": attrgetter("request_id"),
    "at": attrgetter("at"),
    "route_version": attrgetter("route_version"),
    "rollout_id": attrgetter("route.rollout_id"),
    "arm": attrgetter("arm"),
    "served_by": attrgetter("served_by"),
    "shadow": attrgetter("shadow"),
    "model_digest": attrgetter("answering.digest"),
    "model_version": attrgetter("answering.version"),
    "latency_ms": attrgetter("latency_ms"),
    "error": attrgetter("error"),
    "cached": attrgetter("cached"),
}
"""Columns that have one value for all rows of a request, and how to get it."""


class PredictionRecord(NamedTuple):
    """One answered request. It is made on the caller's path, so what can be derived is derived later."""

    route: Route
    route_version: int
    request_id: str
    at: int
    """Microseconds since the epoch."""
    arm: ArmName
    served_by: ArmName
    shadow: bool
    latency_ms: float
    error: str
    inputs: np.ndarray
    """[N, *input_shape]"""
    outputs: np.ndarray | None
    """[N, K] logits, or [N] or [N, 1] for regression; None when no model answered."""
    cached: bool = False
    """Whether the outputs are those of an earlier run."""

    @property
    def model_name(self) -> str:
        """Whose log this belongs to."""
        return self.route.model_name

    @property
    def num_rows(self) -> int:
        """Rows of the log that this makes."""
        return len(self.inputs)

    @property
    def num_bytes(self) -> int:
        """Roughly the memory that this holds until it is written."""
        return self.inputs.nbytes + 1024

    @property
    def layout(self) -> None:
        """Records that share a segment agree on this: all may."""

    @property
    def answering(self) -> Arm:
        """The model version that answered, or was the last to fail."""
        answering = self.route.challenger if self.served_by == "challenger" else self.route.champion
        assert answering is not None
        return answering


class FeedbackRecord(NamedTuple):
    """The labels of one request; None where a row's label is not known."""

    model_name: str
    request_id: str
    at: int
    """Microseconds since the epoch."""
    labels: list[float | None]

    @property
    def num_rows(self) -> int:
        """Rows of the log that this makes."""
        return sum(label is not None for label in self.labels)

    @property
    def num_bytes(self) -> int:
        """Roughly the memory that this holds until it is written."""
        return 32 * len(self.labels) + 512

    @property
    def layout(self) -> None:
        """Records that share a segment agree on this: all may."""


def prediction_table(records: list[PredictionRecord]) -> pa.Table:
    """Lay out the records of one model, a row of the table for each row of each request."""
    return pa.concat_tables(_run_table(list(run)) for _, run in itertools.groupby(records, _layout))


def feedback_table(records: list[FeedbackRecord]) -> pa.Table:
    """Lay out the labels of one model, a row for each label that is known."""
    rows = [
        (record.request_id, row, label, record.at)
        for record in records
        for row, label in enumerate(record.labels)
        if label is not None
    ]
    columns = zip(*rows, strict=True) if rows else [[]] * len(_FEEDBACK)
    return pa.table([pa.array(list(column), field.type) for column, field in zip(columns, _FEEDBACK, strict=True)],
                    schema=_FEEDBACK)  # fmt: skip


def _layout(record: PredictionRecord) -> tuple[object, ...]:
    """Neighbours that agree on this are computed together: numpy's cost is a call, not a row."""
    outputs = None if record.outputs is None else record.outputs.shape[1:]
    return record.route.signature.task, outputs, record.inputs.shape[1:]


def _run_table(run: list[PredictionRecord]) -> pa.Table:
    counts = [record.num_rows for record in run]
    columns: dict[str, object] = {
        name: _repeated([value(record) for record in run], counts) for name, value in _REQUEST_COLUMNS.items()
    }
    columns["row"] = np.arange(sum(counts)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns["batch_rows"] = np.repeat(counts, counts)
    outputs = [record.outputs for record in run if record.outputs is not None]
    if outputs:
        columns |= judge_outputs(np.concatenate(outputs), run[0].route.signature.task)
    else:
        columns |= dict.fromkeys(("prediction", "confidence", "margin"), np.full(sum(counts), np.nan))
    columns |= sketch_inputs(np.concatenate([record.inputs for record in run]))
    sketch = np.asarray(columns["input_sketch"], dtype=np.float32)
    offsets = np.arange(0, sketch.size + 1, SKETCH_SIZE, dtype=np.int32)
    columns["input_sketch"] = pa.ListArray.from_arrays(offsets, sketch.ravel())
    return pa.table({field.name: columns[field.name] for field in _PREDICTIONS}, schema=_PREDICTIONS)


def _repeated(values: list[object], counts: list[int]) -> list[object]:
    if max(counts) == 1:
        return values
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
