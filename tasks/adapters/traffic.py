"""Reads the gateways' prediction and feedback logs back, and counts them for the rollout's statistics."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError, InfrastructureError
from tasks.contracts.traffic import FEEDBACK_COLUMNS, LATER_COLUMNS, PREDICTION_COLUMNS
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Log = Literal["predictions", "feedback"]


@dataclass(frozen=True)
class LoggedAnswer:
    """What one model made of one request, as the gateway logged it."""

    model_name: str
    at: str
    """UTC, ISO 8601."""
    route_version: int
    rollout_id: str
    arm: str
    """That the hash assigned."""
    served_by: str
    """That answered; differs from `arm` after a fallback."""
    shadow: bool
    """Whether the caller never saw this answer."""
    model_digest: str
    model_version: int
    error: str
    num_rows: int


_COLUMNS = {"predictions": tuple(PREDICTION_COLUMNS), "feedback": tuple(FEEDBACK_COLUMNS)}
_COUNTED = (
    "request_id", "row", "at", "route_version", "rollout_id", "arm", "shadow", "error", "latency_ms", "prediction",
    "cached",
)  # fmt: skip
_TRACED = (
    "request_id", "at", "route_version", "rollout_id", "arm", "served_by", "shadow", "model_digest", "model_version",
    "error",
)  # fmt: skip
_HOUR_FORMAT = "%Y-%m-%d-%H"
_FLUSH_SLACK = timedelta(hours=1)  # a row may lie in the folder of the hour after its own


class TrafficLog:
    """The log below one root. Segments never change, so each is read once in the life of this object."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._segments: dict[tuple[Path, tuple[str, ...]], pa.Table] = {}

    def predictions(
        self, model_name: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> "pa.Table":
        """Return the rows of all replicas, oldest first, with the columns of `PREDICTION_COLUMNS`.

        Args:
            model_name: Whose log.
            since: First moment that counts (UTC); all if None.
            until: First moment that does not count any more (UTC).

        Raises:
            InfrastructureError: a segment cannot be read.
            DataError: a segment lacks a column.
        """
        return self._rows(model_name, "predictions", _COLUMNS["predictions"], since, until)

    def feedback(self, model_name: str, *, since: datetime | None = None, until: datetime | None = None) -> "pa.Table":
        """Return the labels, oldest first; the arguments and errors are those of `predictions`."""
        return self._rows(model_name, "feedback", _COLUMNS["feedback"], since, until)

    def answers_to(self, request_id: str) -> list[LoggedAnswer]:
        """Return every model's answer to a request, whatever model it was for, oldest first; none if it is not logged.

        Raises:
            InfrastructureError: a segment cannot be read.
            DataError: a segment lacks a column.
        """
        if not self._root.is_dir():
            return []
        names = sorted(path.name for path in self._root.iterdir() if (path / "predictions").is_dir())
        return [answer for name in names for answer in self._answers_of(name, request_id)]

    def _answers_of(self, model_name: str, request_id: str) -> list[LoggedAnswer]:
        import pyarrow.compute as pc

        table = self._rows(model_name, "predictions", _TRACED, None, None).filter(pc.field("request_id") == request_id)
        counted = Counter(_answer_in(model_name, row) for row in table.drop_columns(["request_id"]).to_pylist())
        return [replace(answer, num_rows=num_rows) for answer, num_rows in counted.items()]

    def observe(
        self,
        model_name: str,
        rollout_id: str,
        weights: Mapping[int, float],
        *,
        task: Task = "classification",
        correct_within: float | None = None,
    ) -> Observation:
        """Count a rollout's traffic by the rules of `tasks.decisions.experiment`.

        A request id that was sent twice counts once, by its first answer: the log cannot tell which of
        the two a label is about, and counting both would let a client that retries weigh double.

        Args:
            model_name: Whose log.
            rollout_id: Rows of other rollouts, and of none, are left out.
            weights: The challenger's percent for every route version of this rollout.
            task: Whether a prediction is a class index or a number.
            correct_within: For regression, the error up to which a prediction counts as correct.

        Raises:
            InfrastructureError: a segment cannot be read.
            DataError: a segment lacks a column, or rows carry a route version without a weight.
        """
        rows = self._rows(model_name, "predictions", _COUNTED, None, None).to_pandas()
        rows = rows[rows["rollout_id"] == rollout_id]
        if unknown := sorted(set(rows["route_version"]) - set(weights)):
            raise DataError(
                f"the log of {model_name!r} holds rows of rollout {rollout_id!r} under route versions {unknown}, "
                f"which are not among that rollout's {sorted(weights)}; pass the weight of every version it wrote"
            )
        if task == "regression" and correct_within is None:
            labels = self.feedback(model_name).schema.empty_table().to_pandas()
        else:
            labels = self.feedback(model_name).to_pandas()
        counted = _judged(_first_answers(rows, weights), _last_labels(labels), correct_within or 0.0)
        present = sorted({weights[version] for version in set(rows["route_version"])})
        return Observation(tuple(_step(weight, counted[counted["weight"] == weight]) for weight in present))

    def _rows(
        self, model_name: str, log: Log, columns: tuple[str, ...], since: datetime | None, until: datetime | None
    ) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.compute as pc

        folder = self._root / model_name / log
        paths = sorted(path for path in folder.glob("*/*.parquet") if not path.name.startswith("."))
        paths = [path for path in paths if _may_hold(path.parent.name, since, until)]
        table = pa.concat_tables([_empty(log, columns), *(self._segment(path, columns) for path in paths)])
        if since is not None:
            table = table.filter(pc.field("at") >= pa.scalar(since))
        if until is not None:
            table = table.filter(pc.field("at") < pa.scalar(until))
        return table.sort_by("at")

    def _segment(self, path: Path, columns: tuple[str, ...]) -> "pa.Table":
        """Read a segment, or return it from the earlier reading."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = self._segments.get((path, columns))
        if known is not None:
            return known
        try:
            with pq.ParquetFile(path) as file:
                absent = set(columns) - set(file.schema_arrow.names)
                if missing := sorted(absent - set(LATER_COLUMNS)):
                    raise DataError(f"log segment {path} lacks the columns {missing}; it was not written by a gateway")
                table = file.read(columns=[name for name in columns if name not in absent])
                for name in absent:
                    table = table.append_column(name, pa.array([LATER_COLUMNS[name]] * table.num_rows))
                table = table.select(columns)
        except (OSError, pa.ArrowException) as error:
            raise InfrastructureError(
                f"log segment {path} cannot be read ({error}); restore it, or move it away to count without its rows"
            ) from error
        self._segments[path, columns] = table
        return table


def _answer_in(model_name: str, row: Mapping[str, Any]) -> LoggedAnswer:
    """Read one logged row; the rows of an answer are equal but for their number and what they hold."""
    texts = {name: row[name] or "" for name in ("rollout_id", "error")}
    at = row["at"].isoformat(timespec="milliseconds")
    return LoggedAnswer(model_name=model_name, num_rows=0, **{**row, **texts, "at": at})


def _may_hold(hour: str, since: datetime | None, until: datetime | None) -> bool:
    """Tell whether the folder of the hour `hour` can hold rows of the window."""
    if since is not None and hour < since.strftime(_HOUR_FORMAT):
        return False
    return until is None or hour <= (until + _FLUSH_SLACK).strftime(_HOUR_FORMAT)


def _empty(log: Log, columns: tuple[str, ...]) -> "pa.Table":
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
        "list<float32>": pa.list_(pa.float32()),
    }
    contract = PREDICTION_COLUMNS if log == "predictions" else FEEDBACK_COLUMNS
    return pa.schema([(name, types[contract[name]]) for name in columns]).empty_table()


def _first_answers(rows: "pd.DataFrame", weights: Mapping[int, float]) -> "pd.DataFrame":
    """Put every row to its step and arm, and drop cached and repeated answers. Rows come oldest first."""
    rows = rows.assign(weight=rows["route_version"].map(dict(weights)).astype(float))
    shadowing = rows["weight"] == 0.0
    rows = rows[(shadowing | ~rows["shadow"]) & ~rows["cached"]]
    arm = rows["arm"].where(rows["weight"] > 0.0, rows["shadow"].map({True: "challenger", False: "champion"}))
    rows = rows.assign(arm=arm, failed=rows["error"].fillna("") != "")
    return rows.drop_duplicates(["weight", "arm", "request_id", "row"], keep="first")


def _last_labels(labels: "pd.DataFrame") -> "pd.DataFrame":
    """Keep the last label of every row. Labels come oldest first."""
    return labels.drop_duplicates(["request_id", "row"], keep="last")[["request_id", "row", "label"]]


def _judged(rows: "pd.DataFrame", labels: "pd.DataFrame", tolerance: float) -> "pd.DataFrame":
    rows = rows.merge(labels, on=["request_id", "row"], how="left")
    near = (rows["prediction"] - rows["label"]).abs() <= tolerance
    return rows.assign(labelled=rows["label"].notna(), correct=near & ~rows["failed"])


def _step(weight: float, rows: "pd.DataFrame") -> StepTraffic:
    champion, challenger = rows[rows["arm"] == "champion"], rows[rows["arm"] == "challenger"]
    paired = _paired(champion, challenger) if weight == 0.0 else PairedCounts()
    return StepTraffic(weight, _arm(champion), _arm(challenger), paired)


def _arm(rows: "pd.DataFrame") -> ArmStats:
    requests = rows.groupby("request_id").agg(failed=("failed", "any"), latency_ms=("latency_ms", "first"))
    return ArmStats(
        requests=len(requests),
        errors=int(requests["failed"].sum()),
        rows=len(rows),
        labelled=int(rows["labelled"].sum()),
        correct=int(rows["correct"].sum()),
        latencies_ms=requests.loc[~requests["failed"], "latency_ms"].to_numpy(dtype=float),
    )


def _paired(champion: "pd.DataFrame", challenger: "pd.DataFrame") -> PairedCounts:
    both = champion[champion["labelled"]].merge(challenger, on=["request_id", "row"], suffixes=("_old", "_new"))
    old, new = both["correct_old"], both["correct_new"]
    return PairedCounts(
        both_right=int((old & new).sum()),
        only_champion=int((old & ~new).sum()),
        only_challenger=int((~old & new).sum()),
        both_wrong=int((~old & ~new).sum()),
    )
