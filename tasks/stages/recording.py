"""The work of recording a run: MLflow runs, registered versions with their lineage."""

import io
from collections.abc import Mapping

import numpy as np
import yaml

from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import ModelError
from tasks.contracts.evaluation import Evaluation
from tasks.contracts.model import StageResult
from tasks.contracts.registration import CARD_TAG, CHALLENGER_ALIAS, RUN_TAG, SIGNATURE_TAG
from tasks.contracts.run import CandidateSummary, RegisteredSummary, RunDossier
from tasks.reporting.model_card import ModelCard, make_model_card
from tasks.reporting.model_card_text import card_markdown, summary_of
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services
from tasks.stages.baselines import BASELINE_TAG, TORCH_DIGEST_TAG
from tasks.stages.promoting import bootstrap
from tasks.stages.reconciling import reconcile
from tasks.stages.rollout_record import GATE_REPORT_TAG
from tasks.stages.signature import signature_of
from tasks.stages.signing import sign_if_configured
from tasks.stages.splits import load_split

_EXAMPLE_ROWS = 2


def record_run(services: Services, dossier: RunDossier) -> str:
    """Record the run and its stages in MLflow and return the parent's run id; a repetition finds what is there.

    A stage that an earlier run computed keeps its MLflow run below that earlier parent; the new parent
    links to it by the tag `stillhouse.stage.<candidate>.<position>`.
    """
    experiment, parent = _experiment(dossier), _parent_run(services, dossier)
    baseline = dossier.baseline_stage
    links = {"stillhouse.stage.baseline": _stage_run(services, experiment, parent, baseline, dossier, {}, "baseline")}
    for name, candidate in dossier.candidates.items():
        summary = next(one for one in dossier.record.candidates if one.name == name)
        for position, (stage, shown) in enumerate(zip(candidate.stages, summary.stages, strict=True)):
            links[f"stillhouse.stage.{name}.{position}"] = _stage_run(
                services, experiment, parent, stage, dossier, _metrics(shown.evaluation), f"{name}: {stage.kind}"
            )
    services.tracker.finish_parent(parent, _outcome_metrics(dossier), dossier.lineage | links, {}, status="FINISHED")
    return parent


def attach_report(services: Services, dossier: RunDossier, page: str) -> None:
    """Attach the report and the record to the parent run, in place of earlier ones."""
    files = {"report.html": page.encode(), "run.json": dossier.record.canonical_json()}
    services.tracker.finish_parent(_parent_run(services, dossier), {}, {}, files, status="FINISHED")


def register_challenger(services: Services, dossier: RunDossier, parent_run_id: str, page: str) -> RegisteredSummary:
    """Register the chosen candidate with its lineage and call it `challenger`, unless it is champion already.

    The first run of a model registers the baseline too and makes it champion: what serves until a
    challenger has proved itself.

    Raises:
        ModelError: the dossier has no chosen candidate.
    """
    chosen = next((one for one in dossier.record.candidates if one.name == dossier.record.chosen), None)
    if chosen is None:
        raise ModelError(f"run {dossier.record.run_id} chose no candidate; there is nothing to register")
    name = _model_name(dossier)
    _ensure_champion(services, dossier, parent_run_id)
    stored = dossier.candidates[chosen.name].gate
    assert stored is not None, "only a gated candidate is chosen"
    files = {
        "report.html": page.encode(),
        "gate.json": stored.report.canonical_json(),
        "plan.yaml": yaml.safe_dump(dossier.plan_document, sort_keys=False).encode(),
        "run.json": dossier.record.canonical_json(),
    }
    tags = _lineage_tags(dossier, chosen) | {GATE_REPORT_TAG: stored.artifact.digest}
    version = _register(services, name, chosen.name, dossier, tags, files, parent_run_id)
    champion = services.ledger.champion(name)
    if champion is None or champion.candidate != chosen.stages[-1].model.digest:
        services.registry.set_alias(name, CHALLENGER_ALIAS, version.version)
    aliases = services.registry.version(name, version.version).aliases
    return RegisteredSummary(name=name, version=version.version, aliases=tuple(sorted(aliases)))


def _ensure_champion(services: Services, dossier: RunDossier, parent_run_id: str) -> None:
    name = _model_name(dossier)
    if services.ledger.champion(name) is not None:
        reconcile(services, name)  # the run that made it may have died before alias and route followed
        return
    tags = _without_other_chains(dossier) | {
        TORCH_DIGEST_TAG: dossier.baseline_stage.model.digest,
        "stillhouse.role": "baseline",
    }
    version = _register(services, name, None, dossier, tags, {}, parent_run_id)
    reason = f"first champion: the uncompressed baseline of plan {dossier.record.plan.name}"
    bootstrap(services, name, version.version, "compress-model", reason, dossier.started_at)


def _register(
    services: Services,
    name: str,
    candidate: str | None,
    dossier: RunDossier,
    tags: Mapping[str, str],
    files: Mapping[str, bytes],
    parent_run_id: str,
) -> RegisteredVersion:
    """Register a candidate, or the baseline (None), with its model card; signed first where there is a key."""
    facts = make_model_card(dossier, name, candidate).canonical_json()
    card = ModelCard.model_validate_json(facts)  # as it will be read, so that its text is the same ever after
    own = {
        SIGNATURE_TAG: signature_of(dossier.dataset).canonical_json().decode(),
        CARD_TAG: services.artifacts.put(facts).digest,
        RUN_TAG: dossier.record.run_id,
    }
    sign_if_configured(services.settings, services.documents, name, card.digest)
    return services.registry.register(
        name,
        card.digest,
        services.artifacts.get(card.digest),
        _example(services, dossier.dataset),
        {**tags, **own},
        {**files, "model-card.md": card_markdown(card).encode(), "model-card.json": facts},
        parent_run_id,
        summary_of(card),
    )


def _example(services: Services, data: DatasetRef) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=load_split(services.artifacts, data, "calibration").x[:_EXAMPLE_ROWS])
    return buffer.getvalue()


def _lineage_tags(dossier: RunDossier, chosen: CandidateSummary) -> dict[str, str]:
    stages = dossier.candidates[chosen.name].stages
    torch_models = [stage.model.digest for stage in stages if stage.model.format == "torch"]
    tags = {f"stillhouse.stage_digest.{position}": stage.model.digest for position, stage in enumerate(stages)}
    tags |= {"stillhouse.candidate": chosen.name, "stillhouse.chain": " > ".join(stage.kind for stage in stages)}
    if torch_models:
        tags[TORCH_DIGEST_TAG] = torch_models[-1]
    return _without_other_chains(dossier) | tags


def _without_other_chains(dossier: RunDossier) -> dict[str, str]:
    """Leave out the stages of all candidates, which the run's record has; a version shows its own."""
    own = {name: value for name, value in dossier.lineage.items() if not name.startswith("stillhouse.stages.")}
    return own | {BASELINE_TAG: dossier.baseline_stage.model.digest}


def _experiment(dossier: RunDossier) -> str:
    return f"stillhouse-{dossier.record.plan.name}"


def _parent_run(services: Services, dossier: RunDossier) -> str:
    name, run_id = dossier.record.plan.name, dossier.record.run_id
    return services.tracker.parent_run(_experiment(dossier), run_id, name, _flat(dossier.plan_document))


def _model_name(dossier: RunDossier) -> str:
    return str(dossier.plan_document["model_name"] or dossier.plan_document["name"])


def _stage_run(
    services: Services,
    experiment: str,
    parent: str,
    stage: StageResult,
    dossier: RunDossier,
    metrics: Mapping[str, float],
    name: str,
) -> str:
    tags = {
        "stillhouse.model": stage.model.digest,
        "stillhouse.data": dossier.dataset.digest,
        RUN_TAG: dossier.record.run_id,
        "stillhouse.host": stage.host,
    }
    return services.tracker.stage_run(
        experiment,
        parent,
        stage.stage_key,
        name,
        params=_stage_params(stage, dossier),
        metrics={"seconds": stage.seconds, **metrics},
        history=stage.history,
        tags=tags,
        usage=stage.usage,
    )


def _stage_params(stage: StageResult, dossier: RunDossier) -> dict[str, str]:
    """Find the spec that made the stage, wherever in the plan it stands."""
    details = {f"details.{name}": str(value) for name, value in stage.details.items()}
    if stage.kind == "train":
        return _flat(dossier.plan_document["baseline"]["train"]) | details
    for name, candidate in dossier.candidates.items():
        for spec, made in zip(dossier.plan_document["candidates"][name], candidate.stages, strict=False):
            if made.stage_key == stage.stage_key:
                return _flat(spec) | details
    return {"kind": stage.kind} | details


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """Flatten an evaluation into metric names that MLflow allows."""
    metrics = {f"{evaluation.split}.{name}": value for name, value in evaluation.metrics.items()}
    metrics |= {
        f"latency_ms.batch_{batch}.{name}": value
        for batch, quantiles in evaluation.latency_ms.items()
        for name, value in quantiles.model_dump().items()
    }
    singles = evaluation.model_dump(exclude={"split", "num_rows", "metrics", "per_class", "latency_ms"})
    return metrics | {name: float(value) for name, value in singles.items() if value is not None}


def _outcome_metrics(dossier: RunDossier) -> dict[str, float]:
    metrics = {f"baseline.{name}": value for name, value in _metrics(dossier.record.baseline.evaluation).items()}
    chosen = next((one for one in dossier.record.candidates if one.name == dossier.record.chosen), None)
    if chosen is not None:
        metrics |= {f"chosen.{name}": value for name, value in _metrics(chosen.stages[-1].evaluation).items()}
    return metrics


def _flat(document: object, prefix: str = "") -> dict[str, str]:
    """Flatten nested values into `a.b.0.c` names."""
    if isinstance(document, dict) and document:
        parts = [_flat(value, f"{prefix}{key}.") for key, value in document.items()]
    elif isinstance(document, list) and document:
        parts = [_flat(value, f"{prefix}{position}.") for position, value in enumerate(document)]
    else:
        return {prefix.rstrip("."): str(document)}
    return {name: value for part in parts for name, value in part.items()}
