"""Reads one window of one model version's traffic from the log, as the arrays that monitoring compares."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.contracts.value import Digest
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Labels, Rows, Service, Window

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_ANSWERS = ("request_id", "row", "at", "arm", "shadow", "model_digest", "error", "prediction")
_WINDOW = (*_ANSWERS, "latency_ms", "batch_rows", "confidence", "input_mean", "input_std", "input_sketch")
_FEEDBACK = ("request_id", "row", "label", "at")
_OPTIONAL = ("cached",)
"""Columns that segments of older gateways lack; read as False."""
_HOUR_FORMAT = "%Y-%m-%d-%H"
_FLUSH_SLACK = timedelta(hours=1)


def read_window(
    root: Path,
    model_name: str,
    model_digest: Digest,
    task: Task,
    since: datetime,
    until: datetime,
    policy: MonitoringPolicy,
) -> Window:
    """Return what the model version answered in [since, until), and the labels that arrived then.

    Only rows of the champion's arm count, first answers only: the arm is a hash's choice, so during a rollout they
    are a fair sample of all requests. A failed row is no evidence about inputs or answers, and a
    cached one repeats another row.

    Args:
        root: Root of the log.
        model_name: Whose log.
        model_digest: The version.
        task: Whether a prediction is a class index or a number.
        since: First moment (UTC).
        until: First moment that does not count any more.
        policy: How many rows are drawn, and how far labels look back.

    Raises:
        InfrastructureError: a segment cannot be read.
        DataError: a segment lacks a column.
    """
    answers = _champions(_read(root / model_name / "predictions", _WINDOW, since, until), model_digest)
    answered = answers[(answers["error"] == "") & ~answers["cached"].astype(bool)]
    return Window(
        rows=_rows(_drawn(answered, policy), task),
        num_rows=len(answered),
        service=_service(answers),
        labels=_labels(root / model_name, model_digest, task, since, until, policy),
    )


def _champions(rows: "pd.DataFrame", model_digest: Digest) -> "pd.DataFrame":
    kept = rows[(rows["model_digest"] == model_digest) & (rows["arm"] == "champion") & ~rows["shadow"].astype(bool)]
    kept = kept.assign(error=kept["error"].fillna(""))
    return kept.drop_duplicates(["request_id", "row"], keep="first")


def _drawn(rows: "pd.DataFrame", policy: MonitoringPolicy) -> "pd.DataFrame":
    """Draw some rows of every request, and of all at most `max_rows`, by lot; the same lot each time."""
    shuffled = rows.sort_values(["request_id", "row"]).sample(frac=1.0, random_state=0)
    by_request = shuffled.groupby("request_id").cumcount()
    return shuffled[by_request < policy.rows_per_request].head(policy.max_rows)


def _rows(rows: "pd.DataFrame", task: Task) -> Rows:
    if rows.empty:
        return Rows(task)
    return Rows(
        task=task,
        input_mean=rows["input_mean"].to_numpy(dtype=np.float64),
        input_std=rows["input_std"].to_numpy(dtype=np.float64),
        input_sketch=np.stack([np.asarray(sketch, dtype=np.float64) for sketch in rows["input_sketch"]]),
        prediction=rows["prediction"].to_numpy(dtype=np.float64),
        confidence=rows["confidence"].to_numpy(dtype=np.float64),
    )


def _service(rows: "pd.DataFrame") -> Service:
    requests = rows.assign(failed=rows["error"] != "").groupby("request_id").agg(
        failed=("failed", "any"),
        cached=("cached", "any"),
        latency_ms=("latency_ms", "first"),
        batch_rows=("batch_rows", "first"),
    )  # fmt: skip
    timed = requests[~requests["failed"] & ~requests["cached"]]
    return Service(
        requests=len(requests),
        errors=int(requests["failed"].sum()),
        cached=int(requests["cached"].sum()),
        latencies_ms={
            int(size): timed.loc[timed["batch_rows"] == size, "latency_ms"].to_numpy(dtype=np.float64)
            for size in timed["batch_rows"].unique()
        },
    )


def _labels(
    folder: Path, model_digest: Digest, task: Task, since: datetime, until: datetime, policy: MonitoringPolicy
) -> Labels:
    """Join labels to answers by request id and row: a label counts in the window in which it arrived."""
    back = since - timedelta(hours=policy.label_hours)
    labels = _read(folder / "feedback", _FEEDBACK, back, until)
    if labels.empty or (task == "regression" and policy.correct_within is None):
        return Labels()
    labels = labels.drop_duplicates(["request_id", "row"], keep="last").rename(columns={"at": "labelled_at"})
    answers = _champions(_read(folder / "predictions", _ANSWERS, back, until), model_digest)
    joined = answers.merge(labels, on=["request_id", "row"], how="inner")
    new = joined[joined["labelled_at"] >= since]
    right = (new["prediction"] - new["label"]).abs() <= (policy.correct_within or 0.0)
    delays = (new["labelled_at"] - new["at"]).dt.total_seconds()
    return Labels(
        right=(right & (new["error"] == "")).to_numpy(dtype=np.bool_),
        delays_s=np.asarray(delays, dtype=np.float64),
        answered=len(answers),
        labelled=len(joined),
    )


def _read(folder: Path, columns: tuple[str, ...], since: datetime, until: datetime) -> "pd.DataFrame":
    """Return the rows of a log in [since, until), oldest first, with `columns` and the optional ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    last = (until + _FLUSH_SLACK).strftime(_HOUR_FORMAT)
    hours = [hour for hour in sorted(folder.glob("*")) if since.strftime(_HOUR_FORMAT) <= hour.name <= last]
    paths = [path for hour in hours for path in sorted(hour.glob("*.parquet")) if not path.name.startswith(".")]
    tables = [_segment(path, columns) for path in paths]
    if not tables:
        return _nothing(columns)
    rows = pa.concat_tables(tables).filter(pc.field("at") >= pa.scalar(since)).filter(pc.field("at") < pa.scalar(until))
    frame: pd.DataFrame = rows.sort_by("at").to_pandas()
    return frame


def _segment(path: Path, columns: tuple[str, ...]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            if missing := sorted(set(columns) - present):
                raise DataError(f"log segment {path} lacks the columns {missing}; it was not written by a gateway")
            table = file.read(columns=[*columns, *(name for name in _OPTIONAL if name in present)])
    except (OSError, pa.ArrowException) as error:
        raise InfrastructureError(
            f"log segment {path} cannot be read ({error}); restore it, or move it away to judge without its rows"
        ) from error
    if "label" in columns:
        return table.select(columns)
    for name in _OPTIONAL:
        if name not in present:
            table = table.append_column(name, pa.array(np.zeros(len(table), dtype=np.bool_)))
    return table.select([*columns, *_OPTIONAL])


def _nothing(columns: tuple[str, ...]) -> "pd.DataFrame":
    import pandas as pd

    times = pd.Series([], dtype="datetime64[us, UTC]")
    empty = {name: pd.Series([], dtype="object") for name in (*columns, *_OPTIONAL)}
    return pd.DataFrame(empty | {"at": times, "shadow": pd.Series([], dtype="bool")})
