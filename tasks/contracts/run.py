"""The record of one run, as `stillhouse run --json` writes it (schema `stillhouse.run/1`)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.evaluation import Evaluation, Machine, Timing
from tasks.contracts.model import ModelRef, StageResult
from tasks.contracts.value import Digest, Value
from tasks.contracts.verdict import StoredGateReport, Verdict


class PlanIdentity(Value):
    """Which plan was run."""

    name: str
    digest: Digest


class DatasetSummary(Value):
    """Which data were used."""

    name: str
    digest: Digest
    revision: str
    splits: dict[SplitName, int]


class BaselineSummary(Value):
    """The uncompressed model as exported, and its evaluation on the test split."""

    model: ModelRef
    evaluation: Evaluation


class StageSummary(Value):
    """One stage of a candidate's chain."""

    kind: str
    cached: bool
    seconds: float
    host: str = ""
    """Where it was computed, by this run or the earlier one that it was taken from."""
    model: ModelRef
    evaluation: Evaluation
    """Of the stage's model as deployed: a torch model is exported to ONNX first. On the validation split; the
    last stage of a candidate that was judged, on the test split, as the gate saw it."""


class CheckSummary(Value):
    """One check of the gate."""

    name: str
    verdict: Verdict
    estimate: float | None
    bound: float | None
    margin: float | None
    num_rows: int


class GateSummary(Value):
    """The gate's answer for one candidate."""

    verdict: Verdict
    checks: tuple[CheckSummary, ...]


class CandidateSummary(Value):
    """One chain of techniques and what came of it. The last stage's model is the deployable ONNX file."""

    name: str
    stages: tuple[StageSummary, ...]
    gate: GateSummary
    pareto: bool
    """Whether no other candidate is at least as good in every objective on the validation split."""


class RegisteredSummary(Value):
    """Where the chosen model is in the registry."""

    name: str
    version: int
    aliases: tuple[str, ...]


class RolloutStep(Value):
    """One judged step of the rollout."""

    weight: float
    """Percent of traffic on the challenger; 0 is shadow."""
    verdict: str


class RolloutSummary(Value):
    """How the rollout went."""

    verdict: str
    """`promote`, `roll_back`, `hold` (not settled yet), `unchanged` (already champion) or `skipped`."""
    steps: tuple[RolloutStep, ...]


class RunRecord(Value):
    """The whole run. Fields are not removed or renamed within `stillhouse.run/1`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["stillhouse.run/1"] = Field(default="stillhouse.run/1", alias="schema")
    run_id: str
    plan: PlanIdentity
    dataset: DatasetSummary
    baseline: BaselineSummary
    candidates: tuple[CandidateSummary, ...]
    chosen: str | None
    """Name of the candidate that was registered; None when none passed."""
    registered: RegisteredSummary | None
    rollout: RolloutSummary | None
    report: str
    """Path of the HTML report."""


class RolloutTick(Value):
    """One look at the traffic during a rollout, for people to read."""

    at: str
    weight: float
    verdict: str
    reason: str
    route_version: int
    rows: dict[str, int]
    """Rows seen so far per arm."""


class CandidateDossier(Value):
    """Everything about one candidate that the record leaves out."""

    stages: tuple[StageResult, ...]
    """In the order of the chain; the same positions as `CandidateSummary.stages`."""
    validation: Evaluation | None = None
    """Of the last stage on the validation split, beside its evaluation on test in the record; None for a chain
    that was not judged."""
    gate: StoredGateReport | None
    failure: str | None = None
    """Why the chain did not finish; None when it did."""


class RunDossier(Value):
    """The record of a run and the evidence around it: what the HTML report is made from."""

    record: RunRecord
    started_at: str
    finished_at: str
    plan_document: dict[str, Any]
    """The plan as validated, defaults filled in."""
    dataset: DatasetRef
    baseline_stage: StageResult
    baseline_validation: Evaluation
    """Of the baseline on the validation split; the record has it on the test split."""
    baseline_moved: str | None
    """How the baseline differs from the pinned one; None when it does not or nothing is pinned."""
    eager_timing: Timing
    """The baseline in eager torch, timed interleaved with all others."""
    machine: Machine
    candidates: dict[str, CandidateDossier]
    lineage: dict[str, str]
    """Data hash, plan digest, code version, digests of the stages, MLflow run ids."""
    rollout_ticks: tuple[RolloutTick, ...] = ()

    def on_validation(self) -> RunRecord:
        """Return the record with every evaluation on the validation split, to compare stages with each other."""
        candidates = []
        for candidate in self.record.candidates:
            validation = self.candidates[candidate.name].validation
            stages = list(candidate.stages)
            if validation is not None:
                stages[-1] = stages[-1].model_copy(update={"evaluation": validation})
            candidates.append(candidate.model_copy(update={"stages": tuple(stages)}))
        baseline = self.record.baseline.model_copy(update={"evaluation": self.baseline_validation})
        return self.record.model_copy(update={"baseline": baseline, "candidates": tuple(candidates)})

    def with_lineage(self, names: Mapping[str, str]) -> "RunDossier":
        """Return a copy whose lineage has these names and values too."""
        return self.model_copy(update={"lineage": {**self.lineage, **names}})

    def with_record(self, **changes: Any) -> "RunDossier":
        """Return a copy whose record has these fields changed."""
        return self.model_copy(update={"record": self.record.model_copy(update=changes)})
