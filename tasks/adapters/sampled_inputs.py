"""Reads the sampled inputs back with their labels: what a model is trained on anew."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.adapters.traffic import TrafficLog
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.contracts.route import ModelSignature
from tasks.contracts.sampled_inputs import DTYPE_KEY, INPUT_COLUMNS, SHAPE_KEY

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class LabelledRows:
    """Rows that came as requests and got their label later, oldest first.

    Attributes:
        x: [N, *input_shape], as the model took them.
        y: float64 [N], class indices or targets, as the feedback said.
        unlabelled: sampled rows that were left out because no label is known.
        ambiguous: sampled rows that were left out because their request id was used for other rows too, so that
            the log cannot tell which of them a label is about.
    """

    x: np.ndarray
    y: np.ndarray
    unlabelled: int = 0
    ambiguous: int = 0


def read_labelled_inputs(
    root: Path, model_name: str, signature: ModelSignature, *, since: datetime | None = None
) -> LabelledRows:
    """Join the sampled inputs of a model with the last label of each (request id, row).

    Args:
        root: Root of the traffic logs.
        model_name: Whose logs.
        signature: What the model takes; a segment of other rows is an error.
        since: First moment of a request that counts (UTC); all if None.

    Raises:
        InfrastructureError: a segment cannot be read.
        DataError: a segment lacks a column, or holds rows of another dtype or shape.
    """
    inputs = _inputs(root, model_name, signature)
    inputs = inputs if since is None else inputs[inputs["at"] >= since]
    inputs = inputs.drop_duplicates(["request_id", "row", "input"])
    repeated = inputs.duplicated(["request_id", "row"], keep=False)
    labels = TrafficLog(root).feedback(model_name).to_pandas()
    labels = labels.drop_duplicates(["request_id", "row"], keep="last")[["request_id", "row", "label"]]
    joined = inputs[~repeated].merge(labels, on=["request_id", "row"], how="left")
    known = joined[joined["label"].notna()]
    dtype = np.dtype(signature.input_dtype).newbyteorder("<")
    rows = np.frombuffer(b"".join(known["input"]), dtype).reshape(len(known), *signature.input_shape)
    return LabelledRows(
        x=rows.astype(signature.input_dtype),
        y=known["label"].to_numpy(dtype=np.float64),
        unlabelled=len(joined) - len(known),
        ambiguous=int(repeated.sum()),
    )


def _inputs(root: Path, model_name: str, signature: ModelSignature) -> "pd.DataFrame":
    """Return the rows of all replicas, oldest first."""
    import pandas as pd

    frames = [table.to_pandas() for table in _segments(root / model_name / "inputs", signature)]
    if not frames:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _EMPTY.items()})
    rows: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return rows.sort_values(["at", "request_id", "row"], kind="stable")


_EMPTY = {"request_id": "str", "row": "int64", "at": "datetime64[us, UTC]", "input": "object"}


def _segments(folder: Path, signature: ModelSignature) -> "Iterator[pa.Table]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("*/*.parquet")):
        if path.name.startswith("."):
            continue
        try:
            with pq.ParquetFile(path) as file:
                if missing := sorted(set(INPUT_COLUMNS) - set(file.schema_arrow.names)):
                    raise DataError(f"log segment {path} lacks the columns {missing}; it was not written by a gateway")
                _require_layout(path, file.schema_arrow.metadata or {}, signature)
                yield file.read(columns=list(INPUT_COLUMNS))
        except (OSError, pa.ArrowException) as error:
            raise InfrastructureError(
                f"log segment {path} cannot be read ({error}); restore it, or move it away to go on without its rows"
            ) from error


def _require_layout(path: Path, metadata: dict[bytes, bytes], signature: ModelSignature) -> None:
    dtype = metadata.get(DTYPE_KEY, b"").decode()
    shape = tuple(json.loads(metadata.get(SHAPE_KEY, b"null")) or ())
    if (dtype, shape) != (signature.input_dtype, signature.input_shape):
        raise DataError(
            f"log segment {path} holds rows {dtype or 'of no dtype'}{list(shape)}, but the model takes "
            f"{signature.input_dtype}{list(signature.input_shape)}; move segments of an earlier model away"
        )
