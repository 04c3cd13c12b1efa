"""What a search over chains found."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.run import PlanIdentity
from tasks.contracts.value import Slug, Value


class HalfScores(Value):
    """The primary metric of a model on the two halves of the validation split."""

    tuned: float
    """On the half that the search goes by."""
    held: float
    """On the half that the search never sees, by which its finalists are chosen."""


class TrialFigures(Value):
    """What a chain reached."""

    scores: HalfScores
    size_bytes: int
    flops: int
    """For one row; a multiply-accumulate counts as two."""


class Excess(Value):
    """By how much a chain is beyond the plan's limits, as far as a search can see them; at most 0 is within.

    These are estimates, without the certainty that the gate asks for.
    """

    tuned: float
    """Loss of the primary metric beyond the tolerated one, on the half that the search goes by."""
    held: float
    """Likewise on the half that it never sees."""
    size: float
    """Size at rest over the largest allowed, less 1; 0 where size has no limit."""


class Trial(Value):
    """A chain of the plan with the values that were tried in it."""

    number: int
    """From 0, in the order in which they were drawn."""
    candidate: Slug
    """Candidate of the plan whose chain it is."""
    values: dict[str, Any] = Field(default={})
    """By their place in the chain, such as `0.temperature`; none: the plan's own chain, outside of the space."""
    figures: TrialFigures | None = None
    """None where the chain did not get to its end."""
    failure: str = ""
    excess: Excess | None = None
    """None where the chain did not get to its end."""
    seconds: float = 0.0
    """Work of its stages, whether this run did it or an earlier one."""

    @property
    def name(self) -> Slug:
        """Name of the chain as a candidate."""
        return f"{self.candidate[:56]}-{self.number}"

    @property
    def is_within_limits(self) -> bool:
        """Whether it got to its end and keeps every limit, on both halves."""
        return self.excess is not None and max(self.excess.tuned, self.excess.held, self.excess.size) <= 0.0


class SearchRecord(Value):
    """A search: what was tried, and what is worth a gate (schema `stillhouse.search/1`)."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["stillhouse.search/1"] = Field(default="stillhouse.search/1", alias="schema")
    run_id: str
    started_at: str
    finished_at: str
    plan: PlanIdentity
    dataset: str
    """Name of the data set; its revision follows."""
    revision: str
    metric: str
    """The primary metric: accuracy, or rmse for regression."""
    baseline: TrialFigures
    trials: tuple[Trial, ...]
    finalists: tuple[int, ...]
    """Numbers of the trials that the gate shall judge, the preferred first; empty where none keeps the limits."""

    @property
    def chosen(self) -> tuple[Trial, ...]:
        """The finalists' trials."""
        by_number = {trial.number: trial for trial in self.trials}
        return tuple(by_number[number] for number in self.finalists)
