"""The model card of one registered version: facts that the run measured, and what follows from them.

A card invents nothing: what was not measured is None or absent here, and its text says so.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.data import SplitName, Task
from tasks.contracts.evaluation import Evaluation, Machine
from tasks.contracts.run import CandidateSummary, PlanIdentity, RunDossier
from tasks.contracts.value import Digest, Value
from tasks.contracts.verdict import Check, Verdict
from tasks.reporting.check_figures import CLASS_PREFIX
from tasks.reporting.model_limits import limits_of


class CardData(Value):
    """What the model was made and judged with."""

    name: str
    digest: Digest
    revision: str
    """As DVC knows it."""
    license: str
    """Empty where the plan does not say."""
    splits: dict[SplitName, int]
    """Rows of each split."""
    task: Task
    input_shape: tuple[int, ...]
    input_dtype: str
    class_names: tuple[str, ...]


class CardStage(Value):
    """One step of how the model was made."""

    kind: str
    settings: dict[str, Any]
    """As in the plan, defaults filled in; empty where the plan has none."""
    model: Digest
    details: dict[str, float | int | str]
    """What the stage told of itself."""


class CardClass(Value):
    """Recall of one class on the card's split."""

    name: str
    num_rows: int | None
    baseline: float
    model: float
    verdict: Verdict | None
    """Of the gate's check of the class; None without one."""


class ModelCard(Value):
    """Facts of one registered version. Fields are not removed or renamed within `stillhouse.model-card/1`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["stillhouse.model-card/1"] = Field(default="stillhouse.model-card/1", alias="schema")
    model_name: str
    digest: Digest
    candidate: str | None
    """Name of the chain in the plan; None for the uncompressed baseline."""
    run_id: str
    finished_at: str
    plan: PlanIdentity
    data: CardData
    baseline: Digest
    """The uncompressed model that it was held against, as ONNX."""
    stages: tuple[CardStage, ...]
    """In order; the first made the baseline."""
    gate_report: Digest | None
    verdict: Verdict | None
    alpha: float | None
    """Error rate of each check."""
    checks: tuple[Check, ...]
    """All that the gate asked; empty where it did not judge."""
    evaluation: Evaluation
    baseline_evaluation: Evaluation
    """On the same split, timed in the same measurement."""
    machine: Machine
    """Where both were timed."""
    classes: tuple[CardClass, ...]
    """Those that lost most recall first; empty for regression."""
    limits: tuple[str, ...]
    """What follows from the evidence, a sentence each."""
    lineage: dict[str, str]


def make_model_card(dossier: RunDossier, model_name: str, candidate: str | None) -> ModelCard:
    """Return the card of a candidate of a run, or of its baseline.

    Args:
        dossier: All that the run found.
        model_name: Name in the registry.
        candidate: Name of a candidate that finished; None for the baseline.
    """
    summary = next((one for one in dossier.record.candidates if one.name == candidate), None)
    base = dossier.record.baseline
    evaluation = summary.stages[-1].evaluation if summary else base.evaluation
    stored = dossier.candidates[summary.name].gate if summary else None
    checks = stored.report.checks if stored else ()
    return ModelCard(
        model_name=model_name,
        digest=summary.stages[-1].model.digest if summary else base.model.digest,
        candidate=candidate,
        run_id=dossier.record.run_id,
        finished_at=dossier.finished_at,
        plan=dossier.record.plan,
        data=_data(dossier),
        baseline=base.model.digest,
        stages=(_baseline_stage(dossier), *_stages(dossier, summary)),
        gate_report=stored.artifact.digest if stored else None,
        verdict=stored.report.verdict if stored else None,
        alpha=stored.report.alpha if stored else None,
        checks=checks,
        evaluation=evaluation,
        baseline_evaluation=base.evaluation,
        machine=dossier.machine,
        classes=_classes(dossier, evaluation, checks),
        limits=limits_of(checks, evaluation, dossier.machine, judged=stored is not None),
        lineage={name: value for name, value in dossier.lineage.items() if not name.startswith("stillhouse.stages.")},
    )


def _data(dossier: RunDossier) -> CardData:
    data = dossier.dataset
    return CardData(
        name=data.name,
        digest=data.digest,
        revision=data.revision,
        license=str(dossier.plan_document.get("dataset", {}).get("license") or ""),
        splits={name: split.num_rows for name, split in data.splits.items()},
        task=data.task,
        input_shape=data.input_shape,
        input_dtype=data.input_dtype,
        class_names=data.class_names,
    )


def _baseline_stage(dossier: RunDossier) -> CardStage:
    made = dossier.baseline_stage
    settings = dossier.plan_document.get("baseline", {})
    return CardStage(
        kind=made.kind, settings=settings.get(made.kind) or {}, model=made.model.digest, details=made.details
    )


def _stages(dossier: RunDossier, summary: CandidateSummary | None) -> tuple[CardStage, ...]:
    if summary is None:
        return ()
    specs = dossier.plan_document["candidates"][summary.name]
    made = dossier.candidates[summary.name].stages
    return tuple(
        CardStage(
            kind=stage.kind,
            settings={name: value for name, value in spec.items() if name not in ("kind", "resources")},
            model=stage.model.digest,
            details=stage.details,
        )
        for spec, stage in zip([*specs, {}], made, strict=False)  # an export at the end stands in no plan
    )


def _classes(dossier: RunDossier, evaluation: Evaluation, checks: tuple[Check, ...]) -> tuple[CardClass, ...]:
    before, after = dossier.record.baseline.evaluation.per_class, evaluation.per_class
    split = dossier.dataset.splits.get(evaluation.split)
    verdicts = {check.name: check.verdict for check in checks}
    classes = [
        CardClass(
            name=name,
            num_rows=split.composition.get(name) if split else None,
            baseline=recall,
            model=after[name],
            verdict=verdicts.get(f"{CLASS_PREFIX}{name}"),
        )
        for name, recall in before.items()
        if name in after
    ]
    return tuple(sorted(classes, key=lambda one: (one.model - one.baseline, one.model, one.name)))
