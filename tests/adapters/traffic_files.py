"""Writes log segments as a gateway does."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contracts.traffic import FEEDBACK_COLUMNS, PREDICTION_COLUMNS

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
DIGEST = "d" * 64
DEFAULTS = {
    "request_id": "a", "row": 0, "at": NOON, "route_version": 1, "rollout_id": None, "arm": "champion",
    "served_by": "champion", "shadow": False, "model_digest": DIGEST, "model_version": 1, "latency_ms": 1.0,
    "batch_rows": 1, "error": "", "prediction": 0.0, "confidence": 0.9, "margin": 0.8, "input_mean": 0.0,
    "input_std": 1.0, "input_sketch": [0.0] * 8,
}  # fmt: skip
TYPES = {
    "string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
    "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"), "list<float32>": pa.list_(pa.float32()),
}  # fmt: skip
KNOWN = {name: kind for name, kind in PREDICTION_COLUMNS.items() if name in DEFAULTS}


class Segments:
    """The log of one model below `root`."""

    def __init__(self, root, model="m"):
        self.root, self.model = root, model
        self._numbers = count()

    def predictions(self, *rows, extra=None):
        """One segment, in the folder of its first row's hour; `extra` are further columns by name and type."""
        columns = KNOWN | (extra or {})
        return self._write("predictions", columns, [DEFAULTS | row for row in rows])

    def feedback(self, *labels):
        """Each label is (request id, row, label, moment)."""
        rows = [{"request_id": name, "row": row, "label": label, "at": at} for name, row, label, at in labels]
        return self._write("feedback", FEEDBACK_COLUMNS, rows)

    def _write(self, log, columns, rows):
        hour = rows[0]["at"].strftime("%Y-%m-%d-%H")
        path = self.root / self.model / log / hour / f"g-{next(self._numbers)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([(name, TYPES[kind]) for name, kind in columns.items()])
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
        return path


def minutes(number):
    return NOON + timedelta(minutes=number)
