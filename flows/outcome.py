"""From results to the record of a run: plain functions over values, no tasks and no clients."""

from __future__ import annotations

from dataclasses import dataclass

from flows.candidates import Baseline, Candidate, Stage
from flows.plan import CompressionPlan
from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import Evaluation, Quality, TimingTable
from tasks.contracts.model import ModelRef, StageResult
from tasks.contracts.run import (
    BaselineSummary,
    CandidateDossier,
    CandidateSummary,
    CheckSummary,
    DatasetSummary,
    GateSummary,
    PlanIdentity,
    RunDossier,
    RunRecord,
    StageSummary,
)
from tasks.contracts.verdict import StoredGateReport, Verdict

COMPLETED_CHECK = "completed"
"""Name of the check that a chain fails which did not get to its end."""


@dataclass(frozen=True)
class Judged:
    """A candidate with the gate's answer; `gate` and `tested` are None for a chain that did not finish."""

    candidate: Candidate
    gate: StoredGateReport | None
    tested: Quality | None
    """Quality of the deployable model on the test split, as the gate saw it."""
    pareto: bool


@dataclass(frozen=True)
class Outcome:
    """Everything that a run has found out before anything is recorded."""

    run_id: str
    started_at: str
    finished_at: str
    plan: CompressionPlan
    data: DatasetRef
    baseline: Baseline
    baseline_moved: str | None
    baseline_tested: Quality
    judged: tuple[Judged, ...]
    chosen: str | None
    timings: TimingTable
    lineage: dict[str, str]
    report: str


def models_to_time(baseline: Baseline, candidates: list[Candidate]) -> tuple[ModelRef, ...]:
    """Return every deployable model of the run once, and the torch baseline as the eager reference."""
    models = [baseline.made.model, baseline.deployed.model]
    models += [stage.deployed.model for candidate in candidates for stage in candidate.stages]
    return tuple({model.digest: model for model in models}.values())


def validation_point(candidate: Candidate, timings: TimingTable, metric: str) -> dict[str, float]:
    """Return the objectives of a finished candidate: quality and latency on the validation split, and size."""
    timing = timings.models[candidate.deployed.model.digest]
    return {
        metric: candidate.quality.metrics[metric],
        "size_bytes": float(candidate.quality.size_bytes),
        "latency_p50_ms": timing.latency_ms["1"].p50,
    }


def primary_metric(data: DatasetRef) -> str:
    """Return the metric that the gate and the Pareto front look at first."""
    return "accuracy" if data.task == "classification" else "rmse"


def make_dossier(outcome: Outcome) -> RunDossier:
    """Put the outcome into the form that is recorded, reported and registered."""
    timings = outcome.timings
    return RunDossier(
        record=make_record(outcome),
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        plan_document=outcome.plan.model_dump(mode="json"),
        dataset=outcome.data,
        baseline_stage=outcome.baseline.made,
        baseline_moved=outcome.baseline_moved,
        eager_timing=timings.models[outcome.baseline.made.model.digest],
        machine=timings.machine,
        baseline_validation=_evaluation(outcome.baseline.deployed, outcome.baseline.quality, timings),
        candidates={
            judged.candidate.name: CandidateDossier(
                validation=_on_validation(judged, timings),
                stages=tuple(stage.made for stage in judged.candidate.stages),
                gate=judged.gate,
                failure=judged.candidate.failure,
            )
            for judged in outcome.judged
        },
        lineage=outcome.lineage,
    )


def make_record(outcome: Outcome) -> RunRecord:
    """Return the record of schema `stillhouse.run/1`, before registration and rollout.

    The baseline and the last stage of every judged candidate are shown as the gate saw them, on the test
    split; the stages on the way on the validation split. `Evaluation.split` says which.
    """
    baseline = outcome.baseline
    return RunRecord(
        run_id=outcome.run_id,
        plan=PlanIdentity(name=outcome.plan.name, digest=outcome.plan.value_digest()),
        dataset=DatasetSummary(
            name=outcome.data.name,
            digest=outcome.data.digest,
            revision=outcome.data.revision,
            splits={name: split.num_rows for name, split in outcome.data.splits.items()},
        ),
        baseline=BaselineSummary(
            model=baseline.deployed.model,
            evaluation=_evaluation(baseline.deployed, outcome.baseline_tested, outcome.timings),
        ),
        candidates=tuple(_summary(judged, outcome.timings) for judged in outcome.judged),
        chosen=outcome.chosen,
        registered=None,
        rollout=None,
        report=outcome.report,
    )


def _summary(judged: Judged, timings: TimingTable) -> CandidateSummary:
    stages = [_stage(stage, stage.quality, timings) for stage in judged.candidate.stages]
    if judged.tested is not None:
        stages[-1] = _stage(judged.candidate.stages[-1], judged.tested, timings)
    return CandidateSummary(
        name=judged.candidate.name,
        stages=tuple(stages),
        gate=_gate(judged.gate),
        pareto=judged.pareto,
    )


def _on_validation(judged: Judged, timings: TimingTable) -> Evaluation | None:
    if judged.tested is None:
        return None
    return _evaluation(judged.candidate.deployed, judged.candidate.quality, timings)


def _stage(stage: Stage, quality: Quality, timings: TimingTable) -> StageSummary:
    return StageSummary(
        kind=stage.made.kind,
        cached=stage.cached,
        seconds=stage.made.seconds,
        host=stage.made.host,
        model=stage.made.model,
        evaluation=_evaluation(stage.deployed, quality, timings),
    )


def _evaluation(deployed: StageResult, quality: Quality, timings: TimingTable) -> Evaluation:
    return Evaluation.combine(quality, timings.models[deployed.model.digest])


def _gate(stored: StoredGateReport | None) -> GateSummary:
    if stored is None:
        unfinished = CheckSummary(
            name=COMPLETED_CHECK, verdict=Verdict.FAIL, estimate=None, bound=None, margin=None, num_rows=0
        )
        return GateSummary(verdict=Verdict.FAIL, checks=(unfinished,))
    checks = tuple(
        CheckSummary.model_validate(check.model_dump(include=set(CheckSummary.model_fields)))
        for check in stored.report.checks
    )
    return GateSummary(verdict=stored.report.verdict, checks=checks)
