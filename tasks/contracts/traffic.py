"""Columns of the prediction log and of the feedback log, as the gateway writes and others read them.

Layout below the traffic root (a local folder, or a prefix of a bucket):
`<model>/predictions/<YYYY-MM-DD-HH>/<replica>-<n>.parquet` and
`<model>/feedback/<YYYY-MM-DD-HH>/<replica>-<n>.parquet`. Segments are written whole and never changed.
Raw inputs, where a gateway samples them, are a log of their own: `tasks.contracts.sampled_inputs`.
"""

from typing import Literal

ColumnType = Literal["string", "int64", "float64", "bool", "timestamp[us, UTC]", "list<float32>"]

PREDICTION_COLUMNS: dict[str, ColumnType] = {
    "request_id": "string",
    "row": "int64",  # index of the row within its request; feedback names (request_id, row)
    "at": "timestamp[us, UTC]",
    "route_version": "int64",
    "rollout_id": "string",
    "arm": "string",  # the arm that the hash assigned
    "served_by": "string",  # the arm that answered; differs from `arm` after a fallback
    "shadow": "bool",  # True for the challenger's unseen answer to a champion's request
    "model_digest": "string",  # of the model that gave this prediction
    "model_version": "int64",
    "latency_ms": "float64",  # inside the gateway, from parsed request to encoded answer, for its whole batch
    "batch_rows": "int64",
    "error": "string",  # empty, or the short reason why `arm` failed
    "prediction": "float64",  # class index, or the regression output
    "confidence": "float64",  # largest softmax probability; NaN for regression
    "margin": "float64",  # top-1 minus top-2 probability; NaN for regression
    "input_mean": "float64",
    "input_std": "float64",
    "input_sketch": "list<float32>",  # fixed random projection of the row, 8 values
    "cached": "bool",  # True when an earlier answer of `arm` to the same input was given again
}

LATER_COLUMNS: dict[str, bool] = {"cached": False}
"""Columns that the segments of earlier gateways lack, and what they would have held."""

FEEDBACK_COLUMNS: dict[str, ColumnType] = {
    "request_id": "string",
    "row": "int64",
    "label": "float64",
    "at": "timestamp[us, UTC]",
}
