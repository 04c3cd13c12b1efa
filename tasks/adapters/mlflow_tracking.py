"""Runs in MLflow: one parent per flow run, one child per stage, found by tag and never duplicated.

A run is made in three steps (create with its tags, log, end). A process that dies in between leaves
an unfinished run that carries its tag; the next call finds it, logs the same again and ends it.
Metric time stamps derive from the run's start, so logging twice gives the same points.
"""

import getpass
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from tasks.adapters.mlflow_connection import connection
from tasks.contracts.errors import UserError
from tasks.contracts.model import EpochRecord, UsageSample
from tasks.contracts.registration import RUN_TAG
from tasks.runtime.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

    from tasks.runtime.locking import Locks

FLOW_RUN_TAG: Final = "stillhouse.flow_run_id"
STAGE_KEY_TAG: Final = "stillhouse.stage_key"

_MAX_KEY_LENGTH = 250
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
_FINISHED = "FINISHED"


class MlflowTracker:
    """See `tasks.runtime.bookkeeping.Tracker`."""

    def __init__(self, settings: Settings, locks: "Locks | None" = None) -> None:
        self._mlflow = connection(settings, locks)

    def parent_run(self, experiment: str, flow_run_id: str, name: str, params: Mapping[str, str]) -> str:
        """See `Tracker.parent_run`. A run that had ended is running again: its flow run was retried."""
        experiment_id = self._mlflow.experiment_id(experiment)
        with (
            self._mlflow.errors(f"record flow run {name!r} on"),
            self._mlflow.lock(f"mlflow-runs/{experiment_id}"),
        ):
            run = self._find(experiment_id, FLOW_RUN_TAG, flow_run_id)
            if run is None:
                run = self._create(experiment_id, name, {FLOW_RUN_TAG: flow_run_id})
            elif run.info.status != "RUNNING":
                self._mlflow.client.update_run(run.info.run_id, status="RUNNING")
            self._log(run, params=params)
        return str(run.info.run_id)

    def stage_run(
        self,
        experiment: str,
        parent_run_id: str,
        stage_key: str,
        name: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        history: tuple[EpochRecord, ...],
        tags: Mapping[str, str],
        usage: tuple[UsageSample, ...] = (),
    ) -> str:
        """See `Tracker.stage_run`. MLflow shows as system metrics what is called `system/...`."""
        experiment_id = self._mlflow.experiment_id(experiment)
        with (
            self._mlflow.errors(f"record stage {name!r} on"),
            self._mlflow.lock(f"mlflow-runs/{experiment_id}"),
        ):
            run = self._find(experiment_id, STAGE_KEY_TAG, stage_key)
            if run is None:
                own = {STAGE_KEY_TAG: stage_key, "mlflow.parentRunId": parent_run_id}
                run = self._create(experiment_id, name, {**tags, **own})
            if run.info.status != _FINISHED:
                self._log(run, params=params, metrics=metrics, history=history, usage=usage)
                self._mlflow.client.set_terminated(run.info.run_id, status=_FINISHED)
        return str(run.info.run_id)

    def finish_parent(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        status: str,
    ) -> None:
        """See `Tracker.finish_parent`."""
        with self._mlflow.errors("record the outcome of the run on"):
            run = self._mlflow.client.get_run(run_id)
            self._log(run, metrics=metrics, tags=tags)
            if files:
                with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
                    write_files(Path(folder), files)
                    self._mlflow.client.log_artifacts(run_id, folder)
            self._mlflow.client.set_terminated(run_id, status=status)

    def flow_run_of(self, run_id: str) -> str | None:
        """See `Tracker.flow_run_of`. A stage's run belongs to the flow run that computed it."""
        from mlflow.exceptions import MlflowException

        with self._mlflow.errors(f"look for run {run_id} on"):
            try:
                tags = self._mlflow.client.get_run(run_id).data.tags
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        found = tags.get(FLOW_RUN_TAG) or tags.get(RUN_TAG)
        return None if found is None else str(found)

    def _find(self, experiment_id: str, tag: str, value: str) -> "Run | None":
        """Return the oldest run with this tag; hosts that do not share locks may have made two."""
        found = self._mlflow.client.search_runs(
            [experiment_id], f"tags.`{tag}` = {_quoted(value)}", max_results=1, order_by=["attributes.start_time ASC"]
        )
        return found[0] if found else None

    def _create(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> "Run":
        labels = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "stillhouse", **_cut(tags, _MAX_TAG_LENGTH)}
        return self._mlflow.client.create_run(experiment_id, tags=labels, run_name=name)

    def _log(
        self,
        run: "Run",
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        history: tuple[EpochRecord, ...] = (),
        tags: Mapping[str, str] | None = None,
        usage: tuple[UsageSample, ...] = (),
    ) -> None:
        """Log everything in one batch; the client splits it where it exceeds MLflow's limits."""
        from mlflow.entities import Param, RunTag

        missing = {
            name: value for name, value in (params or {}).items() if name[:_MAX_KEY_LENGTH] not in run.data.params
        }
        self._mlflow.client.log_batch(
            run.info.run_id,
            metrics=_points(run.info.start_time, metrics or {}, history) + _system(run.info.start_time, usage),
            params=[Param(name, value) for name, value in _cut(missing, _MAX_PARAM_LENGTH).items()],
            tags=[RunTag(name, value) for name, value in _cut(tags or {}, _MAX_TAG_LENGTH).items()],
        )


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` below `folder` by their relative paths.

    Raises:
        UserError: a path leads out of the folder, or is taken.
    """
    for name, data in files.items():
        relative = PurePosixPath(name)
        target = folder / relative
        if relative.is_absolute() or ".." in relative.parts or target.exists():
            raise UserError(f"cannot attach a file as {name!r}; use a relative path of its own")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _points(start_ms: int, metrics: Mapping[str, float], history: tuple[EpochRecord, ...]) -> list["Metric"]:
    """Turn the outcome and the history into MLflow's points; time stamps are the start plus the step."""
    from mlflow.entities import Metric

    last_step = max((record.step for record in history), default=0)
    points = [
        Metric(_key(name), value, start_ms + record.step, record.step)
        for record in history
        for name, value in record.metrics.items()
    ]
    points += [Metric(_key(name), value, start_ms + last_step, last_step) for name, value in metrics.items()]
    return points


def _system(start_ms: int, usage: tuple[UsageSample, ...]) -> list["Metric"]:
    """Turn samples into points of MLflow's system metrics, at their seconds after the run's start."""
    from mlflow.entities import Metric

    return [
        Metric(_key(f"system/{name}"), value, start_ms + round(1000 * sample.at_s), step)
        for step, sample in enumerate(usage)
        for name, value in sample.metrics.items()
    ]


def _cut(values: Mapping[str, str], limit: int) -> dict[str, str]:
    """Cut what MLflow would refuse; a cut value ends with `…` so that nobody takes it for the whole."""
    return {_key(name): value if len(value) <= limit else value[: limit - 1] + "…" for name, value in values.items()}


def _key(name: str) -> str:
    return name[:_MAX_KEY_LENGTH]


def _quoted(value: str) -> str:
    """Quote for MLflow's filter language, which knows no escapes."""
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise UserError(f"{value!r} holds both kinds of quotes and cannot be searched for in MLflow; leave one out")
