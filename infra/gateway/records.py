"""What is recorded of requests, and its form as Arrow tables with the columns of `tasks.contracts.traffic`."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from infra.gateway.columns import column, listed
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

_BLOCK_BYTES = 2**19
"""Inputs that are sketched at a time: they and what is made of them stay in the processor's cache."""

_REQUEST_COLUMNS = (
    "request_id", "at", "route_version", "arm", "served_by", "shadow", "latency_ms", "error", "cached",
)  # fmt: skip
"""Fields of a record that are columns, with one value for all rows of a request."""


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
    inputs: np.ndarray | None
    """[N, *input_shape]; None where their sketch is known and they were not read again."""
    outputs: np.ndarray | None
    """[N, K] logits, or [N] or [N, 1] for regression; None when no model answered."""
    cached: bool = False
    """Whether the outputs are those of an earlier run."""
    sketch: np.ndarray | None = None
    """[N, 2 + SKETCH_SIZE], as `sketch_of` makes it; None where it is still to be made of the inputs."""

    @property
    def model_name(self) -> str:
        """Whose log this belongs to."""
        return self.route.model_name

    @property
    def num_rows(self) -> int:
        """Rows of the log that this makes."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Roughly the memory that this holds until it is written."""
        return self._rows.nbytes + 1024

    @property
    def layout(self) -> None:
        """Records that share a segment agree on this: all may."""

    @property
    def _rows(self) -> np.ndarray:
        rows = self.inputs if self.sketch is None else self.sketch
        assert rows is not None, "a record needs inputs or their sketch"
        return rows


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


def sketch_of(inputs: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation and projection of rows [N, *input_shape], as [N, 2 + SKETCH_SIZE]."""
    found = sketch_inputs(inputs)
    return np.column_stack([found["input_mean"], found["input_std"], found["input_sketch"]])


def prediction_table(records: list[PredictionRecord]) -> pa.Table:
    """Lay out the records of one model, a row of the table for each row of each request."""
    return pa.concat_tables([_run_table(list(run)) for _, run in itertools.groupby(records, _layout)])


def feedback_table(records: list[FeedbackRecord]) -> pa.Table:
    """Lay out the labels of one model, a row for each label that is known."""
    rows = [
        (record.request_id, row, label, record.at)
        for record in records
        for row, label in enumerate(record.labels)
        if label is not None
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_FEEDBACK)
    return pa.Table.from_arrays(
        [column(list(values), field.type) for values, field in zip(columns, _FEEDBACK, strict=True)], schema=_FEEDBACK
    )


def _layout(record: PredictionRecord) -> tuple[object, ...]:
    """Neighbours that agree on this are computed together: numpy's cost is a call, not a row."""
    return id(record.route), None if record.outputs is None else record.outputs.shape[1:]


def _run_table(run: list[PredictionRecord]) -> pa.Table:
    route = run[0].route
    told = dict(zip(PredictionRecord._fields, zip(*run, strict=True), strict=True))
    counts = [record.num_rows for record in run]
    arms: dict[ArmName, Arm] = {"champion": route.champion}
    if route.challenger is not None:
        arms["challenger"] = route.challenger
    answering = [arms[name] for name in told["served_by"]]
    requests = {name: told[name] for name in _REQUEST_COLUMNS} | {
        "rollout_id": [route.rollout_id] * len(run),
        "model_digest": [arm.digest for arm in answering],
        "model_version": [arm.version for arm in answering],
    }
    columns: dict[str, Any] = {name: _repeated(values, counts) for name, values in requests.items()}
    columns["row"] = np.arange(sum(counts)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns["batch_rows"] = np.repeat(counts, counts)
    if run[0].outputs is None:
        columns |= dict.fromkeys(("prediction", "confidence", "margin"), np.full(sum(counts), np.nan))
    else:
        columns |= judge_outputs(np.concatenate(told["outputs"]), route.signature.task)
    sketch = _sketched(run, counts)
    columns["input_mean"], columns["input_std"] = sketch[:, 0], sketch[:, 1]
    laid_out = {field.name: column(columns[field.name], field.type) for field in _PREDICTIONS if field.name in columns}
    laid_out["input_sketch"] = listed(sketch[:, 2:].astype(np.float32))
    return pa.Table.from_arrays([laid_out[field.name] for field in _PREDICTIONS], schema=_PREDICTIONS)


def _sketched(run: list[PredictionRecord], counts: list[int]) -> np.ndarray:
    """Return the sketches [rows, 2 + SKETCH_SIZE] of all rows, taking over those that are known."""
    is_known = np.repeat([record.sketch is not None for record in run], counts)
    sketches = np.empty((len(is_known), 2 + SKETCH_SIZE))
    if is_known.any():
        sketches[is_known] = np.concatenate([record.sketch for record in run if record.sketch is not None])
    unknown = [record.inputs for record in run if record.sketch is None and record.inputs is not None]
    if unknown:
        blocks = [sketch_of(np.concatenate(block)) for block in _blocks(unknown)]
        sketches[~is_known] = np.concatenate(blocks)
    return sketches


def _blocks(arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Divide arrays into runs of at most `_BLOCK_BYTES`, or of one that is larger."""
    block: list[np.ndarray] = []
    size = 0
    for array in arrays:
        if block and size + array.nbytes > _BLOCK_BYTES:
            yield block
            block, size = [], 0
        block.append(array)
        size += array.nbytes
    yield block


def _repeated(values: Sequence[object], counts: list[int]) -> Sequence[object]:
    if max(counts) == 1:
        return values
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
