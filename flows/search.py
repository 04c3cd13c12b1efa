"""Search: from a plan whose chains may vary to the few chains that are worth the gate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.baselines import make_baseline
from flows.outcome import primary_metric
from flows.places import look_up, put
from flows.plan import CompressionPlan
from flows.plan_text import Reasoned, plan_text
from flows.trials import figures_of, start_trials
from tasks.adapters.optuna_study import OptunaStudy
from tasks.contracts.errors import PlanError
from tasks.contracts.run import PlanIdentity
from tasks.contracts.search import SearchRecord, Trial
from tasks.contracts.value import Slug
from tasks.decisions.search import OBJECTIVES, choose_finalists, objectives
from tasks.decisions.search_policy import Dimension, SearchPolicy
from tasks.fetch import fetch
from tasks.runtime.isolation import stopping_with_run
from tasks.runtime.progress import announce
from tasks.runtime.services import connect
from tasks.score import score
from tasks.stages.fetching import record_dataset, source_revision
from tasks.tabulate import tabulate


@flow(name="search-plan", flow_run_name="{plan.name} search", persist_result=False)
def search_plan(plan: CompressionPlan) -> SearchRecord:
    """Try chains from the plan's `search.space` on its validation split, and choose those that the gate shall judge.

    Every stage is cached, and what is drawn follows from the seed and from what came before: a search that was killed
    goes on where it was, and a run of the plan that is found computes no stage anew. The test split is not touched.

    Args:
        plan: With a `search`; validated, the ends of its ranges included, before this starts.

    Raises:
        PlanError: the plan has no `search`.
        UserError: data or baseline are wrong.
        InfrastructureError: something outside failed for longer than retries last; a later search goes on from here.
    """
    if plan.search is None:
        raise PlanError(
            f"plan {plan.name} has no `search`; say what may vary, for example "
            "search: {space: {student-int8: {0.temperature: {low: 3, high: 20}}}}"
        )
    with stopping_with_run():
        return _search(plan, plan.search)


def _search(plan: CompressionPlan, policy: SearchPolicy) -> SearchRecord:
    started_at = _now()
    revision = source_revision(plan.dataset, connect().settings)
    data = fetch(plan.dataset, revision, plan.seed)
    record_dataset(data, connect().documents)
    baseline = make_baseline(plan, data)
    reference = figures_of(baseline.quality, score(baseline.quality, data, plan.seed))
    metric = primary_metric(data)
    unchanged = objectives(metric, reference, held=False)
    study = OptunaStudy(policy.space, own_values(plan, policy.space), OBJECTIVES, unchanged, plan.seed)
    trials: list[Trial] = []
    while len(trials) < policy.trials:
        draws = study.ask(min(policy.at_once, policy.trials - len(trials)))
        pending = start_trials(plan, draws, baseline, data)
        for trial in [one.finish(metric, reference, plan) for one in pending]:
            _tell(study, metric, trial)
            trials.append(trial)
        announce(f"{len(trials)} of {policy.trials} chains tried")
    finalists = choose_finalists(trials, metric, plan.choose, policy.finalists)
    record = SearchRecord(
        run_id=str(flow_run.id),
        started_at=started_at,
        finished_at=_now(),
        plan=PlanIdentity(name=plan.name, digest=plan.value_digest()),
        dataset=data.name,
        revision=data.revision,
        metric=metric,
        baseline=reference,
        trials=tuple(trials),
        finalists=finalists,
    )
    tabulate(record, found_text(plan.model_dump(mode="json", exclude_unset=True), record))
    return record


def own_values(plan: CompressionPlan, space: Mapping[Slug, Mapping[str, Dimension]]) -> dict[Slug, dict[str, Any]]:
    """Return what the plan itself has at the places of the space; a candidate that lacks one is left out."""
    found = {}
    for name, dimensions in space.items():
        chain = [technique.model_dump(mode="json") for technique in plan.candidates[name]]
        try:
            found[name] = {place: look_up(chain, place) for place in dimensions}
        except KeyError:
            continue
    return found


def found_plan(document: Mapping[str, Any], record: SearchRecord) -> dict[str, Any] | None:
    """Return a plan's document with the finalists' chains as its candidates, and without the search.

    Args:
        document: The plan that was searched, as a person wrote it or as it was dumped.
        record: What the search found; None is returned where that is nothing.
    """
    if not record.finalists:
        return None
    candidates: dict[str, Any] = {}
    for trial in record.chosen:
        chain = {"chain": copy.deepcopy(document["candidates"][trial.candidate])}
        for place, value in trial.values.items():
            put(chain, f"chain.{place}", value, f"candidate {trial.candidate}")
        candidates[trial.name] = chain["chain"]
    rest = {key: value for key, value in document.items() if key != "search"}
    return rest | {"candidates": candidates}


def found_text(document: Mapping[str, Any], record: SearchRecord) -> str | None:
    """Return `found_plan` as YAML, with the figures of each finalist as a comment; None where nothing was found."""
    found = found_plan(document, record)
    if found is None:
        return None
    return plan_text(
        found, [Reasoned(one.name, found["candidates"][one.name], _why(record, one)) for one in record.chosen]
    )


def _why(record: SearchRecord, trial: Trial) -> str:
    assert trial.figures is not None
    scores, size = trial.figures.scores, record.baseline.size_bytes / trial.figures.size_bytes
    return (
        f"trial {trial.number}: {record.metric} {scores.held:.4f} held out ({scores.tuned:.4f} on the half looked at; "
        f"baseline {record.baseline.scores.held:.4f} and {record.baseline.scores.tuned:.4f}), {size:.1f} times smaller"
    )


def _tell(study: OptunaStudy, metric: str, trial: Trial) -> None:
    """Tell the study what it may know: nothing of the half that is held out."""
    if trial.figures is None or trial.excess is None:
        study.tell(trial.number, None, {})
        return
    steering = {"loss": trial.excess.tuned, "size": trial.excess.size}
    study.tell(trial.number, objectives(metric, trial.figures, held=False), steering)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
