"""What a rollout may do to find out whether the challenger is as good as the champion."""

from typing import Any, Self

from pydantic import Field, field_serializer, model_validator

from tasks.contracts.value import Value
from tasks.decisions.rollout_steps import Step, Steps, write_steps

_DEFAULT_WEIGHTS = (0.0, 1.0, 5.0, 25.0, 50.0, 100.0)


class RolloutPolicy(Value):
    """Steps, evidence and limits of a rollout.

    Error rates: with `alpha` 0.05, a challenger exactly at a limit is rolled back by that limit's check with
    probability 5 % at most, and one that is worse than the champion by `accuracy_margin` is promoted with
    probability 5 % at most, over all ticks of the rollout together.
    """

    steps: Steps = Field(
        default=tuple(Step(weight=weight) for weight in _DEFAULT_WEIGHTS),
        min_length=1,
        description="The challenger's share of requests, percent; 0 is shadow: it answers unseen beside the champion. "
        "Or objects as in Argo Rollouts: {setWeight: 5}, {shadow: {}}, {pause: {}}, {pause: {duration: 10m}}, "
        "{analysis: {proven: [errors], min_rows_per_arm: 2000}}.",
        json_schema_extra={"default": list(_DEFAULT_WEIGHTS)},
    )
    min_rows_per_arm: int = Field(
        default=300, ge=1, description="Rows of each arm that a step must see before the next one may begin."
    )
    accuracy_margin: float = Field(
        default=0.02, gt=0.0, lt=1.0, description="Tolerated drop of accuracy on labelled traffic, as a fraction."
    )
    correct_within: float | None = Field(
        default=None, ge=0.0, description="Regression: an answer is correct when it is off by at most this."
    )
    max_error_rate_increase: float = Field(
        default=0.01, ge=0.0, lt=1.0, description="Tolerated increase of the share of failed requests."
    )
    max_latency_ratio: float = Field(
        default=1.2, gt=0.0, description="Tolerated latency of the challenger as a multiple of the champion's."
    )
    latency_quantiles: tuple[float, ...] = Field(
        default=(0.5, 0.95), min_length=1, description="Latency quantiles that are guarded."
    )
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5, description="Error rate of every check over the whole rollout.")
    sample_ratio_alpha: float = Field(
        default=1e-4, gt=0.0, lt=0.5, description="Chance of a false alarm that traffic is divided wrongly."
    )
    sample_ratio_patience: int = Field(
        default=3, ge=1, description="Consecutive ticks of wrong division until roll-back: a late log segment heals."
    )
    min_labelled_share: float = Field(
        default=0.1, ge=0.0, le=1.0, description="Share of each arm's rows in a step that must have feedback."
    )
    max_labelled_gap: float = Field(
        default=0.1, gt=0.0, le=1.0, description="Largest difference between the arms' shares of rows with feedback."
    )
    max_ticks_per_step: int = Field(
        default=60, ge=1, description="Ticks that a step may take; then the rollout is paused and asks for a person."
    )
    max_paused_ticks: int = Field(
        default=60, ge=0, description="Ticks that it then waits, judging on, before it rolls back."
    )

    @property
    def weights(self) -> tuple[float, ...]:
        """The challenger's percents in order."""
        return tuple(step.weight for step in self.steps)

    @field_serializer("steps")
    def _in_the_notation_of_users(self, steps: tuple[Step, ...]) -> list[float | dict[str, Any]]:
        return write_steps(steps)

    @model_validator(mode="after")
    def _steps_can_settle_it(self) -> Self:
        shown = f"steps ({', '.join(f'{weight:g}' for weight in self.weights)})"
        if any(later <= earlier for earlier, later in zip(self.weights, self.weights[1:], strict=False)):
            raise ValueError(f"{shown} must rise; every weight is used once")
        if self.weights[0] == 100.0:
            raise ValueError(f"{shown} compare nothing: at 100 percent the champion answers no request; begin lower")
        if any(not 0.0 < quantile < 1.0 for quantile in self.latency_quantiles):
            raise ValueError(f"latency_quantiles {self.latency_quantiles} must lie between 0 and 1; 0.95 is p95")
        return self
