"""Judging the candidates of a run: the Pareto front on validation, the gate on test, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect.futures import PrefectFuture

from flows.candidates import Baseline, Candidate
from flows.outcome import Judged, primary_metric, validation_point
from flows.plan import CompressionPlan
from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import (
    METRIC_DIRECTIONS,
    Measured,
    Quality,
    Robustness,
    ServingTrial,
    SplitOutcome,
    TimingTable,
)
from tasks.contracts.model import StageResult
from tasks.contracts.verdict import Verdict
from tasks.decisions.pareto import Objective, Preference, choose, pareto_front
from tasks.evaluate import evaluate
from tasks.gate import gate
from tasks.look import look
from tasks.runtime.services import connect
from tasks.serve import serve
from tasks.stress import stress

_SIZE = Objective("size_bytes", "lower")
_LATENCY = Objective("latency_p50_ms", "lower")


def judge(
    plan: CompressionPlan,
    data: DatasetRef,
    baseline: Baseline,
    candidates: Sequence[Candidate],
    timings: TimingTable,
    splits: Mapping[str, tuple[SplitOutcome, ...]],
    created_at: str,
    champion: StageResult | None = None,
) -> tuple[tuple[Judged, ...], Quality]:
    """Gate every finished candidate on the test split, which is read here and nowhere before.

    All finished candidates share the gate's error rate, since the best of those that pass is chosen.

    Args:
        plan: what is asked.
        data: the data set.
        baseline: what candidates are held against.
        candidates: all of the run.
        timings: of all models, in one table.
        splits: what the chains of finished candidates reach on other data splits, by name.
        created_at: start of the run, UTC, ISO 8601.
        champion: the model that serves, which the outcome of a retraining has to do as well as.

    Returns:
        The candidates with the gate's answers, and the baseline's quality on the test split.
    """
    finished = [candidate for candidate in candidates if candidate.failure is None]
    front = pareto_front(_points(finished, data, timings), _objectives(data))
    number = look(data, [one.deployed.model.digest for one in finished], created_at) if finished else 1
    reference, measured = _measured_on_test(plan, data, baseline, finished, timings, splits)
    serving = None if champion is None else evaluate(champion, baseline.deployed, data, "test")
    reports = {
        name: gate.submit(
            name,
            evidence,
            reference,
            data,
            plan.constraints,
            plan.gate,
            len(finished),
            number,
            plan.registered_name,
            plan.value_digest(),
            created_at,
            serving,
        )
        for name, evidence in measured.items()
    }
    judged = tuple(
        Judged(
            candidate,
            gate=reports[candidate.name].result() if candidate.name in reports else None,
            tested=measured[candidate.name].quality if candidate.name in measured else None,
            pareto=candidate.name in front,
        )
        for candidate in candidates
    )
    return judged, reference.quality


def _measured_on_test(
    plan: CompressionPlan,
    data: DatasetRef,
    baseline: Baseline,
    finished: Sequence[Candidate],
    timings: TimingTable,
    splits: Mapping[str, tuple[SplitOutcome, ...]],
) -> tuple[Measured, dict[str, Measured]]:
    """Measure baseline and candidates on the test split as far as the plan's checks ask; all stages at once."""
    reference = evaluate.submit(baseline.deployed, baseline.deployed, data, "test")
    qualities = {one.name: evaluate.submit(one.deployed, baseline.deployed, data, "test") for one in finished}
    stressed: dict[str, PrefectFuture[Robustness]] = {}
    if plan.gate.severity("robustness") != "skip":
        deployed = {one.model.digest: one for one in (baseline.deployed, *(one.deployed for one in finished))}
        stressed = {digest: stress.submit(model, data, "test") for digest, model in deployed.items()}
    served: dict[str, PrefectFuture[ServingTrial]] = {}
    if plan.gate.severity("servability") != "skip":
        command = connect().settings.gateway_command
        served = {one.deployed.model.digest: serve.submit(one.deployed, data, command) for one in finished}

    def measured(quality: Quality, others: tuple[SplitOutcome, ...] = ()) -> Measured:
        trial = served.get(quality.model)
        return Measured(
            quality=quality,
            timing=timings.models[quality.model],
            robustness=stressed[quality.model].result() if stressed else None,
            serving=trial.result() if trial else None,
            splits=others,
        )

    candidates = {name: measured(future.result(), splits.get(name, ())) for name, future in qualities.items()}
    return measured(reference.result()), candidates


def choose_candidate(
    judged: Sequence[Judged], data: DatasetRef, timings: TimingTable, preference: Preference
) -> str | None:
    """Return the name of the best candidate that passed the gate, by the plan's preference; None if none passed.

    The choice looks at validation figures only: the test split decides who may be chosen, not who is.
    """
    passed = [one.candidate for one in judged if one.gate is not None and one.gate.report.verdict is Verdict.PASS]
    quality = _objectives(data)[0]
    order = {
        "smallest": (_SIZE, _LATENCY, quality),
        "fastest": (_LATENCY, _SIZE, quality),
        "most_accurate": (quality, _SIZE, _LATENCY),
    }
    return choose(_points(passed, data, timings), order[preference])


def _objectives(data: DatasetRef) -> tuple[Objective, ...]:
    metric = primary_metric(data)
    return (Objective(metric, METRIC_DIRECTIONS[metric]), _SIZE, _LATENCY)


def _points(candidates: Sequence[Candidate], data: DatasetRef, timings: TimingTable) -> dict[str, dict[str, float]]:
    metric = primary_metric(data)
    return {candidate.name: validation_point(candidate, timings, metric) for candidate in candidates}
