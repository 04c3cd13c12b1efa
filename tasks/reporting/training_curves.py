"""How training went: a sparkline of every metric of every stage that kept a history."""

from dataclasses import dataclass

from markupsafe import Markup

from tasks.contracts.evaluation import METRIC_DIRECTIONS
from tasks.contracts.model import EpochRecord, StageResult
from tasks.contracts.run import RunDossier
from tasks.reporting import figures
from tasks.reporting.charts import sparkline

_NOT_DRAWN = frozenset({"learning_rate"})


@dataclass(frozen=True)
class Curve:
    """One metric over the epochs."""

    metric: str
    picture: Markup
    first: str
    last: str
    best: str
    """The best value and its epoch."""


@dataclass(frozen=True)
class TrainedStage:
    """The curves of one stage."""

    kind: str
    used_by: tuple[str, ...]
    """Candidates that share the stage; `baseline` for the baseline."""
    num_epochs: int
    curves: tuple[Curve, ...]


def make_training_curves(dossier: RunDossier) -> tuple[TrainedStage, ...]:
    """Return the curves of every stage with a history; a stage that candidates share comes once."""
    users: dict[str, list[str]] = {}
    stages: dict[str, StageResult] = {}
    owned = [("baseline", dossier.baseline_stage)]
    owned += [(name, stage) for name, candidate in dossier.candidates.items() for stage in candidate.stages]
    for owner, stage in owned:
        if stage.history:
            stages[stage.stage_key] = stage
            users.setdefault(stage.stage_key, []).append(owner)
    return tuple(
        TrainedStage(stage.kind, tuple(users[key]), len(stage.history), _curves(stage.history))
        for key, stage in stages.items()
    )


def _curves(history: tuple[EpochRecord, ...]) -> tuple[Curve, ...]:
    names = [name for name in history[0].metrics if name not in _NOT_DRAWN]
    return tuple(_curve(name, history) for name in names)


def _curve(name: str, history: tuple[EpochRecord, ...]) -> Curve:
    values = {record.step: record.metrics[name] for record in history if name in record.metrics}
    finite = {step: value for step, value in values.items() if value == value}
    pick = max if METRIC_DIRECTIONS.get(name.removeprefix("train_"), "lower") == "higher" else min
    best = pick(finite, key=lambda step: finite[step]) if finite else None
    series = list(values.values())
    first, last = series[0], series[-1]
    title = f"{name} over {len(series)} epochs, from {figures.metric(name, first)} to {figures.metric(name, last)}"
    return Curve(
        metric=name.replace("_", " "),
        picture=sparkline(series, title),
        first=figures.metric(name, first),
        last=figures.metric(name, last),
        best="" if best is None else f"{figures.metric(name, finite[best])} in epoch {best}",
    )
