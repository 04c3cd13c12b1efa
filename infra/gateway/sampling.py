"""The sample of raw inputs: which requests are kept, and their form as an Arrow table.

It is off unless the configuration asks for a share of the requests, since rows may tell about people.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from infra.gateway.columns import blobs, column
from infra.gateway.records import PredictionRecord
from tasks.contracts.sampled_inputs import DTYPE_KEY, SHAPE_KEY, is_sampled


class InputRecord(NamedTuple):
    """The rows of one request, as the model took them."""

    model_name: str
    request_id: str
    at: int
    """Microseconds since the epoch."""
    inputs: np.ndarray
    """[N, *input_shape]"""

    @property
    def num_rows(self) -> int:
        """Rows of the log that this makes."""
        return len(self.inputs)

    @property
    def num_bytes(self) -> int:
        """Roughly the memory that this holds until it is written."""
        return self.inputs.nbytes + 512

    @property
    def layout(self) -> tuple[str, tuple[int, ...]]:
        """Records that share a segment agree on this: the rows' dtype and shape, which a reload may change."""
        return self.inputs.dtype.name, self.inputs.shape[1:]


def sampling(
    record: Callable[[PredictionRecord], None], keep: Callable[[InputRecord], None], share: float
) -> Callable[[PredictionRecord], None]:
    """Return `record`, or, for a share above 0, a function that also keeps the inputs of the requests in the sample.

    It costs the request one hash and one append; rows are laid out by the log's own thread.
    """
    if share == 0.0:
        return record

    def record_and_keep(answered: PredictionRecord) -> None:
        record(answered)
        if is_sampled(answered.request_id, share):
            assert answered.inputs is not None, "a request in the sample is recorded with its inputs"
            keep(InputRecord(answered.model_name, answered.request_id, answered.at, answered.inputs))

    return record_and_keep


def input_table(records: list[InputRecord]) -> pa.Table:
    """Lay out the rows of one model, which have one dtype and shape.

    Raises:
        ValueError: they have not.
    """
    layouts = {record.layout for record in records}
    if len(layouts) > 1:
        raise ValueError(f"rows of {records[0].model_name} come as {sorted(layouts)}; a segment holds one of them")
    ((dtype, shape),) = layouts
    counts = [record.num_rows for record in records]
    names = [record.request_id for record, count in zip(records, counts, strict=True) for _ in range(count)]
    columns = {
        "request_id": column(names, pa.string()),
        "row": column([row for count in counts for row in range(count)], pa.int64()),
        "at": column(np.repeat([record.at for record in records], counts), pa.timestamp("us", tz="UTC")),
        "input": blobs(np.concatenate([record.inputs for record in records])),
    }
    metadata = {DTYPE_KEY: dtype.encode(), SHAPE_KEY: json.dumps(list(shape)).encode()}
    return pa.Table.from_arrays(list(columns.values()), names=list(columns), metadata=metadata)
