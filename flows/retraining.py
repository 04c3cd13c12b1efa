"""Retraining: labelled traffic -> data version -> warm-started teacher -> candidates -> gate -> rollout."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from prefect import flow

from flows.delivery import deliver_model
from flows.plan import CompressionPlan, load_plan, parse_plan
from flows.publication import announce, require_plan_of
from tasks.contracts.errors import PlanError
from tasks.contracts.publication import PublishedData
from tasks.contracts.retraining import Retraining, RetrainingEntry
from tasks.contracts.run import RunDossier
from tasks.publish import publish
from tasks.runtime.services import connect
from tasks.stages.publishing import latest_published
from tasks.stages.retraining import (
    concluded,
    current_champion,
    require_turn,
    unfinished,
)
from tasks.stages.single_flight import single_flight
from tasks.techniques.baseline import LoadBaseline, WarmStart


@flow(name="retrain-model", flow_run_name="{model_name} retraining", persist_result=False)
def retrain_model(model_name: str, plan: str, reason: str) -> RunDossier:
    """Train a model anew on what its clients sent since, and roll it out if it is as good as the champion.

    One at a time for a model, within the plan's `retraining` budget. One whose process died is gone on with: its
    stages are in the cache, and it counts once.

    Args:
        model_name: A model with a champion.
        plan: Path of its plan; a relative one starts at STILLHOUSE_PROJECT.
        reason: Why, for the readers of ledger and lineage.

    Raises:
        ModelBusyError: another retraining, or a deployment that compresses the model, is running.
        RetrainingRefusedError: a rollout is running, or pause or budget forbid it.
        DataError: traffic brought too few labelled rows, or bad ones; nothing was changed.
        UserError: the plan is wrong, or about another model.
        InfrastructureError: something outside failed for longer than retries last; a later run goes on from here.
    """
    services, path = connect(), connect().settings.project / plan
    loaded = load_plan(path)
    require_plan_of(loaded, model_name, path)
    with single_flight(services, model_name):
        champion = current_champion(services, model_name)
        entry = unfinished(services, model_name, plan, champion.digest)
        if entry is None:
            require_turn(services, model_name, loaded.retraining, datetime.now(UTC))
        published = _new_data(loaded, begun=entry is not None)
        entry = entry or RetrainingEntry(
            plan=plan, reason=reason, champion=champion.digest, data_revision=published.revision, started_at=_now()
        )
        retraining = Retraining(model_name=model_name, reason=entry.reason, champion=champion)
        with concluded(services, model_name, entry) as conclude:
            dossier = deliver_model(retraining_plan(loaded, published), retraining=retraining)
            conclude(outcome_of(dossier))
    return dossier


def retraining_plan(plan: CompressionPlan, published: PublishedData) -> CompressionPlan:
    """Return `plan` on the published data, its baseline warm-started from the champion's lineage.

    Raises:
        PlanError: the plan loads its baseline, so that there is nothing to train anew, or wants other data splits.
    """
    if isinstance(plan.baseline, LoadBaseline):
        raise PlanError(
            f"plan {plan.name} loads its baseline, so that it cannot be trained anew; train it in the plan "
            "(baseline.train), if need be from those weights (warm_start.weights)"
        )
    spec = plan.baseline.train
    if spec.warm_start is None:
        policy = plan.retraining
        schedule = spec.schedule.model_copy(
            update={
                "epochs": math.ceil(spec.schedule.epochs * policy.epochs_share),
                "learning_rate": spec.schedule.learning_rate * policy.learning_rate_share,
            }
        )
        spec = spec.model_copy(update={"warm_start": WarmStart(schedule=schedule)})
    document = plan.model_dump(mode="json") | {"dataset": published.source}
    document["baseline"] = {"train": spec.model_dump(mode="json")}
    return parse_plan(document, f"{plan.name} for retraining")


def outcome_of(dossier: RunDossier) -> str:
    """Say in a few words how a retraining ended."""
    record = dossier.record
    if record.chosen is None:
        verdicts = ", ".join(f"{one.name} {one.gate.verdict}" for one in record.candidates)
        return f"not promoted: no candidate passed the gate ({verdicts})"
    verdict = record.rollout.verdict if record.rollout else "no rollout"
    return "promoted" if verdict in ("promote", "unchanged") else f"not promoted: {verdict}"


def _new_data(plan: CompressionPlan, *, begun: bool) -> PublishedData:
    """Publish what traffic brought; a retraining that is gone on with keeps the version that it began with."""
    found = latest_published(connect(), plan.registered_name, plan.dataset, plan.seed) if begun else None
    if found is not None:
        return found
    now = _now()
    published = publish(plan.registered_name, plan.dataset, plan.seed, plan.retraining.min_new_rows, now)
    if published.published_at == now:
        announce(published)
    return published


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
