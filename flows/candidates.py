"""Candidate chains as futures: every stage is submitted at once, and Prefect runs what is ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from prefect.futures import PrefectFuture

from tasks.compress import compress
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import UserError
from tasks.contracts.evaluation import Quality
from tasks.contracts.model import ModelRef, StageResult
from tasks.decisions.early_stop import EarlyStop
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.screen import screen
from tasks.techniques import Technique


@dataclass(frozen=True)
class Baseline:
    """The uncompressed model: in torch, as exported, and how good it is on the validation split."""

    made: StageResult
    deployed: StageResult
    quality: Quality
    cached: bool


@dataclass(frozen=True)
class Stage:
    """A finished stage: what it made, what of it is deployed, and how good that is on the validation split."""

    made: StageResult
    deployed: StageResult
    """ONNX: the stage's own model, or its export."""
    quality: Quality
    cached: bool


@dataclass(frozen=True)
class Candidate:
    """A chain that was run to its end, or as far as it went."""

    name: str
    stages: tuple[Stage, ...]
    failure: str | None

    @property
    def deployed(self) -> StageResult:
        """The deployable model at the chain's end."""
        return self.stages[-1].deployed

    @property
    def quality(self) -> Quality:
        """Quality of the deployable model on the validation split."""
        return self.stages[-1].quality


def served_model(model: ModelRef) -> StageResult:
    """Return a model that no stage of this run made, such as the champion, as if one had."""
    return StageResult(stage_key=f"served/{model.digest}", kind="served", model=model, seconds=0.0)


@dataclass(frozen=True)
class PendingStage:
    """A submitted stage."""

    made: PrefectFuture[StageResult]
    deployed: PrefectFuture[StageResult]
    quality: PrefectFuture[Quality]
    screened: PrefectFuture[None] | None = None
    """Fails when the stage broke the plan's early stop, whereupon the stages after it never start."""

    def finish(self) -> Stage:
        """Wait for the stage.

        Raises:
            Exception: whatever the stage raised.
        """
        made = self.made.result()
        return Stage(made, self.deployed.result(), self.quality.result(), cached=self.made.state.name == "Cached")


@dataclass(frozen=True)
class PendingCandidate:
    """A submitted chain."""

    name: str
    stages: tuple[PendingStage, ...]

    def finish(self) -> Candidate:
        """Wait for the chain; a chain that cannot go on ends as a failed candidate, and the others go on.

        Raises:
            InfrastructureError: retries did not help; the next run goes on from here.
            StageFailedError: a defect.
        """
        finished: list[Stage] = []
        for stage in self.stages:
            try:
                finished.append(stage.finish())
                if stage.screened is not None:
                    stage.screened.result()
            except UserError as error:
                return Candidate(self.name, tuple(finished), failure=f"{type(error).__name__}: {error}")
        return Candidate(self.name, tuple(finished), failure=None)


def start_candidate(
    name: str,
    chain: Sequence[Technique],
    baseline: Baseline,
    data: DatasetRef,
    seed: int,
    early_stop: EarlyStop | None,
) -> PendingCandidate:
    """Submit a chain: its techniques, the export where torch ends, and an evaluation after every stage.

    With `early_stop`, a stage begins only after the one before it was found good enough.
    """
    # prefect resolves futures among the arguments; its types do not say so
    current: Any = baseline.made
    stages: list[PendingStage] = []
    for position, technique in enumerate(chain):
        if technique.takes == "onnx" and position > 0 and chain[position - 1].gives == "torch":
            current = stages[-1].deployed
        elif technique.takes == "onnx" and position == 0:
            current = baseline.deployed
        before = [stages[-1].screened] if stages and stages[-1].screened else None
        current = cast(Any, compress).submit(name, technique, current, baseline.made, data, seed, wait_for=before)
        stage = _evaluated(current, technique.gives == "torch", baseline.deployed, data)
        stages.append(_screened(stage, f"{name}: {technique.kind}", baseline.quality, early_stop))
    if chain[-1].gives == "torch":
        stages.append(PendingStage(stages[-1].deployed, stages[-1].deployed, stages[-1].quality))
    return PendingCandidate(name, tuple(stages))


def _evaluated(made: Any, is_torch: bool, baseline_onnx: StageResult, data: DatasetRef) -> PendingStage:
    deployed = export.submit(made, data) if is_torch else made
    quality = evaluate.submit(cast(Any, deployed), baseline_onnx, data, "validation")
    return PendingStage(made, deployed, quality)


def _screened(stage: PendingStage, name: str, baseline: Quality, early_stop: EarlyStop | None) -> PendingStage:
    if early_stop is None:
        return stage
    return replace(stage, screened=screen.submit(name, cast(Any, stage.quality), baseline, early_stop))
