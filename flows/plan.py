"""The plan: what a user writes. It is validated as a whole, chains included, before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from flows.places import put
from flows.plan_errors import explain
from tasks.contracts.data import LabelledSplitName, Task
from tasks.contracts.errors import PlanError
from tasks.contracts.model import ModelFormat
from tasks.contracts.value import Slug, Value
from tasks.datasets import Source
from tasks.decisions.early_stop import EarlyStop
from tasks.decisions.gate_policy import Constraints, GatePolicy, why_quality_is_unguarded
from tasks.decisions.pareto import Preference
from tasks.decisions.retraining import RetrainingPolicy
from tasks.decisions.rollout import RolloutPolicy
from tasks.decisions.search_policy import SearchPolicy
from tasks.techniques import Technique
from tasks.techniques.baseline import Baseline, LoadBaseline
from tasks.techniques.technique import Invariant


class Replay(Value):
    """Traffic that the run itself sends to the gateway, for a rollout where no clients are."""

    split: LabelledSplitName = Field(
        default="validation", description="Split whose rows are sent, with labels as feedback."
    )
    concurrency: int = Field(default=4, ge=1, le=256, description="Connections used at once.")
    requests_per_second: float | None = Field(default=None, gt=0, description="As fast as they are answered if none.")


class Rollout(RolloutPolicy):
    """The rollout policy, how often it is ticked, and whether the run brings its own traffic."""

    tick_seconds: float = Field(default=60.0, gt=0, description="Pause between two looks at the traffic, seconds.")
    replay: Replay | None = Field(default=None, description="Send rows of a split as traffic; none: real clients do.")

    @property
    def policy(self) -> RolloutPolicy:
        """The part that the state machine knows."""
        return RolloutPolicy(**{name: getattr(self, name) for name in RolloutPolicy.model_fields})


class CompressionPlan(Value):
    """Everything that one run depends on, apart from addresses and credentials."""

    name: Slug
    model_name: Slug | None = Field(default=None, description="Name in the registry; the plan's name if none is given.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    candidate_seed: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seed of the candidates' stages, to repeat them on one baseline and one split; `seed` if none.",
    )
    dataset: Source
    baseline: Baseline
    candidates: dict[Slug, Annotated[tuple[Technique, ...], Field(min_length=1)]] = Field(min_length=1)
    constraints: Constraints = Constraints()
    early_stop: EarlyStop | None = Field(
        default=None, description="Ends a chain at a stage that lost more than this; none: every chain runs to its end."
    )
    target: Literal["cpu"] = Field(default="cpu", description="What the deployable models are built for and timed on.")
    gate: GatePolicy = GatePolicy()
    choose: Preference = Field(default="smallest", description="Which of the candidates that pass is registered.")
    rollout: Rollout = Rollout()
    retraining: RetrainingPolicy = RetrainingPolicy()
    search: SearchPolicy | None = Field(
        default=None, description="What `stillhouse search` varies in the candidates; a run takes them as they are."
    )

    @property
    def seed_of_candidates(self) -> int:
        """Seed of everything random in the candidates' stages."""
        return self.seed if self.candidate_seed is None else self.candidate_seed

    @property
    def registered_name(self) -> Slug:
        """Name of the model in the registry, the ledger and the route."""
        return self.model_name or self.name

    @model_validator(mode="after")
    def _rollout_can_be_judged(self) -> CompressionPlan:
        regression = getattr(self.dataset, "task", "classification") == "regression"
        if regression and self.rollout.replay is not None and self.rollout.correct_within is None:
            raise ValueError(
                "rollout: a regression has no right and wrong answers unless rollout.correct_within says how far off "
                "counts as right, and the rollout would wait for them without end; set it, in the target's unit"
            )
        return self

    @model_validator(mode="after")
    def _gate_guards_quality(self) -> CompressionPlan:
        task: Task = getattr(self.dataset, "task", "classification")
        if reason := why_quality_is_unguarded(task, self.constraints, self.gate):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _baseline_can_be_made_anew(self) -> CompressionPlan:
        begun = isinstance(self.baseline, LoadBaseline) or self.baseline.train.warm_start is not None
        if self.gate.data_splits and begun:
            raise ValueError(
                "gate.data_splits wants the baseline trained anew on each split, but this plan loads it or its "
                "weights, which have seen rows that another split would test on; train the baseline in the plan from "
                "drawn weights, or set data_splits to 0"
            )
        return self

    @model_validator(mode="after")
    def _chains_fit(self) -> CompressionPlan:
        for name, chain in self.candidates.items():
            check_chain(name, chain)
        return self

    @model_validator(mode="after")
    def _search_stays_within_plans(self) -> CompressionPlan:
        for name, dimensions in self.search.space.items() if self.search else ():
            if name not in self.candidates:
                raise ValueError(
                    f"search.space names no candidate {name!r}; those of the plan are {', '.join(self.candidates)}"
                )
            for place, dimension in dimensions.items():
                for value in dimension.limits():
                    try:
                        self.varied(name, {place: value})
                    except PlanError as error:
                        raise ValueError(f"search.space.{name}.{place} takes {value!r}: {error}") from error
        return self

    def varied(self, candidate: Slug, values: Mapping[str, Any]) -> tuple[Technique, ...]:
        """Return a candidate's chain with other values at some of its places, such as `{"0.temperature": 6}`.

        Raises:
            PlanError: a place is none, or the chain would not be valid.
        """
        document = self.model_dump(mode="json", exclude={"search"})
        for place, value in values.items():
            put(document, f"candidates.{candidate}.{place}", value, f"{candidate} with {place} = {value!r}")
        return parse_plan(document, f"{self.name} with {dict(values)}").candidates[candidate]


def check_chain(name: str, chain: tuple[Technique, ...]) -> None:
    """Check that every technique gets the format that it takes, and that none undoes what one before it did.

    Torch becomes onnx by an export, never back.

    Raises:
        ValueError: it does not fit; the message names the two techniques and the remedy.
    """
    current: ModelFormat = "torch"
    giver = "the baseline"
    established: dict[Invariant, str] = {}
    into_int8: str | None = None
    for position, technique in enumerate(chain):
        if technique.takes == "torch" and current == "onnx":
            raise ValueError(
                f"candidate {name!r}: {technique.kind} needs a torch model, but {giver} before it gives onnx; "
                f"move {technique.kind} before {giver}"
            )
        if technique.resources.num_workers > 1 and not technique.trains_in_parallel:
            raise ValueError(
                f"candidate {name!r}: {technique.kind} as it is set here runs in one process; set "
                "resources.num_workers to 1 (distill_response, distill_decoupled and the baseline's training share "
                "their work)"
            )
        if technique.starts_over and position > 0:
            raise ValueError(
                f"candidate {name!r}: {technique.kind} builds a student from scratch and throws away what {giver} "
                f"before it made; put {technique.kind} first, or, where it has a student, leave that out so that it "
                "goes on with the incoming model"
            )
        if technique.takes_weights == "float" and into_int8:
            raise ValueError(
                f"candidate {name!r}: {technique.kind} takes a float model, but {into_int8} before it gives int8; "
                "leave one of them out"
            )
        if technique.takes_weights == "int8" and not into_int8:
            raise ValueError(
                f"candidate {name!r}: {technique.kind} needs a model with int8 weights; put quantize_static before it"
            )
        for invariant in sorted(established.keys() - technique.keeps):
            raise ValueError(
                f"candidate {name!r}: {technique.kind} would undo the {invariant.replace('_', ' ')} that "
                f"{established[invariant]} before it established; move {technique.kind} before "
                f"{established[invariant]}"
            )
        established |= dict.fromkeys(technique.establishes, technique.kind)
        current, giver = technique.gives, technique.kind
        into_int8 = technique.kind if technique.gives_int8 else into_int8


def load_plan(path: Path, overrides: tuple[str, ...] = ()) -> CompressionPlan:
    """Read a YAML plan, apply `key.path=value` overrides, and validate the whole.

    Raises:
        PlanError: the file is missing or not YAML, or a value is wrong; every fault is named, with its place.
    """
    return parse_plan(read_document(path, overrides), str(path))


def read_document(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a YAML plan and apply `key.path=value` overrides, without validating it.

    Raises:
        PlanError: the file is missing, not YAML or no mapping, or an override names no place.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"plan {path} cannot be read: {error.strerror}; see plans/ for plans to copy") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"plan {path} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise PlanError(f"plan {path} must be a mapping with keys such as name, dataset, baseline and candidates")
    for override in overrides:
        _apply_override(document, override)
    return document


def parse_plan(document: dict[str, Any], origin: str) -> CompressionPlan:
    """Validate a plan that is already parsed; `origin` names it in the error.

    Raises:
        PlanError: with one line per fault.
    """
    try:
        return CompressionPlan.model_validate(document)
    except ValidationError as error:
        raise PlanError(f"plan {origin} is not valid:\n{explain(error, document, plan_schema())}") from error


def plan_schema() -> dict[str, Any]:
    """Return the JSON schema of a plan, for editors."""
    return TypeAdapter(CompressionPlan).json_schema()


def _apply_override(document: dict[str, Any], override: str) -> None:
    place, separator, text = override.partition("=")
    if not separator or not place:
        raise PlanError(f"--set {override!r} is not of the form key.path=value, for example --set seed=1")
    put(document, place, yaml.safe_load(text), f"--set {override!r}")
