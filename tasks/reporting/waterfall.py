"""The stages of every candidate, from the baseline on: what each did to quality, size and latency."""

from dataclasses import dataclass

from markupsafe import Markup

from tasks.contracts.evaluation import Evaluation
from tasks.contracts.model import StageResult
from tasks.contracts.run import CandidateSummary, RunDossier, StageSummary
from tasks.reporting import figures
from tasks.reporting.charts import bar, deviation_bar
from tasks.reporting.dossier_reading import is_better, latency_p50_ms, on_validation, primary_metric


@dataclass(frozen=True)
class Measure:
    """A figure and its bar."""

    text: str
    bar: Markup


@dataclass(frozen=True)
class Step:
    """One stage."""

    kind: str
    effort: str
    """How long it took, and whether this run had to do it."""
    digest: str
    quality: Measure
    size: Measure
    latency: Measure
    facts: tuple[tuple[str, str], ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class Waterfall:
    """One candidate; the first step is the baseline."""

    name: str
    steps: tuple[Step, ...]
    failure: str | None


@dataclass(frozen=True)
class _Ends:
    """What fills a bar, over all candidates, so that bars of two candidates compare."""

    metric: str
    base_quality: float
    largest_change: float
    largest_size: float
    slowest_ms: float


def make_waterfalls(dossier: RunDossier) -> tuple[Waterfall, ...]:
    """Return the stages of every candidate on validation, unfinished ones too, in the order of the plan."""
    dossier = on_validation(dossier)
    base = dossier.record.baseline
    ends = _ends(dossier)
    made = dossier.baseline_stage
    effort = f"{figures.seconds(made.seconds)} when it was made"
    first = _step(f"baseline ({made.kind})", effort, base.model.digest, base.evaluation, ends, made)
    return tuple(
        Waterfall(
            candidate.name,
            (first, *_steps(dossier, candidate, ends)),
            dossier.candidates[candidate.name].failure,
        )
        for candidate in dossier.record.candidates
    )


def effort_text(stage: StageSummary) -> str:
    """Say how long a stage took and where, and whether this run took its outcome from the cache."""
    took = figures.seconds(stage.seconds) + (f" on {stage.host}" if stage.host else "")
    return f"from cache (took {took})" if stage.cached else took


def _steps(dossier: RunDossier, candidate: CandidateSummary, ends: _Ends) -> list[Step]:
    results = dossier.candidates[candidate.name].stages
    return [
        _step(stage.kind, effort_text(stage), stage.model.digest, stage.evaluation, ends, made)
        for stage, made in zip(candidate.stages, results, strict=True)
    ]


def _step(kind: str, effort: str, digest: str, evaluation: Evaluation, ends: _Ends, made: StageResult) -> Step:
    quality, latency = evaluation.metrics[ends.metric], latency_p50_ms(evaluation)
    change = quality - ends.base_quality
    size, change_text = evaluation.size_bytes, figures.metric_change(ends.metric, change)
    facts = {name: value for name, value in made.details.items() if name != "warning"}
    return Step(
        kind,
        effort,
        digest,
        quality=Measure(
            figures.metric(ends.metric, quality),
            deviation_bar(
                change,
                ends.largest_change,
                f"{change_text} against the baseline",
                better=is_better(ends.metric, change),
            ),
        ),
        size=Measure(
            figures.bytes_text(size),
            bar(size / ends.largest_size, f"{figures.share(size / ends.largest_size)} of the largest"),
        ),
        latency=Measure(
            figures.milliseconds(latency),
            bar(latency / ends.slowest_ms, f"{figures.share(latency / ends.slowest_ms)} of the slowest"),
        ),
        facts=tuple((name.replace("_", " "), _fact(value)) for name, value in facts.items()),
        warning=str(made.details.get("warning", "")),
    )


def _fact(value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    return figures.count(value) if isinstance(value, int) else f"{value:.4g}"


def _ends(dossier: RunDossier) -> _Ends:
    metric = primary_metric(dossier)
    base = dossier.record.baseline.evaluation
    shown = [base, *(stage.evaluation for one in dossier.record.candidates for stage in one.stages)]
    changes = [abs(one.metrics[metric] - base.metrics[metric]) for one in shown]
    return _Ends(
        metric,
        base.metrics[metric],
        max((change for change in changes if change == change), default=0.0),
        max(one.size_bytes for one in shown),
        max(latency_p50_ms(one) for one in shown),
    )
