"""What a search may vary in a plan's chains, and how long it goes on."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from tasks.contracts.value import Slug, Value

Number = int | float


class Dimension(Value):
    """The values that a place of a chain may take: a range of numbers, or a list of anything.

    With a `step` the values are low, low + step and so on to high, and whole where low and step are.
    """

    low: Number | None = Field(default=None, description="Smallest value of a range.")
    high: Number | None = Field(default=None, description="Largest value of a range.")
    step: Number | None = Field(default=None, gt=0, description="Distance of a range's values; none: all between.")
    log: bool = Field(default=False, description="Draw a range by its logarithm: as many from 1 to 10 as to 100.")
    choices: tuple[Any, ...] | None = Field(default=None, min_length=2, description="Values instead of a range.")

    @model_validator(mode="after")
    def _is_a_range_or_a_list(self) -> Dimension:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("give choices, or low and high, but not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low!r} must be below high {self.high!r}, and both finite")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step {self.step!r} is wider than the range from {self.low!r} to {self.high!r}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the values are integers."""
        return self.choices is None and isinstance(self.low, int) and isinstance(self.step, int)

    @property
    def last(self) -> Number:
        """The largest value that a range takes: `high`, or the last step that does not pass it."""
        assert self.low is not None
        assert self.high is not None
        if self.step is None:
            return self.high
        return min(self.high, self.low + math.floor((self.high - self.low) / self.step + 1e-9) * self.step)

    def limits(self) -> tuple[Any, ...]:
        """Return the values that a plan must take if it is to take all: both ends of a range, or each of the list."""
        return self.choices if self.choices is not None else (self.low, self.last)

    def takes(self, value: Any) -> bool:
        """Tell whether `value` is among the values."""
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or self.low is None:
            return False
        if not self.low <= value <= self.last:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)


class SearchPolicy(Value):
    """A search over the chains of a plan."""

    space: dict[Slug, dict[str, Dimension]] = Field(
        min_length=1,
        description="What varies, by the candidate and the place in its chain: `student-int8: {0.temperature: …}`.",
    )
    trials: int = Field(default=40, ge=1, le=10_000, description="Chains that are tried.")
    at_once: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Chains that are drawn and run together; the more, the less each draw knows of the others.",
    )
    finalists: int = Field(
        default=3, ge=1, le=20, description="Chains that the gate judges; all share its error rate, so few are better."
    )

    @model_validator(mode="after")
    def _varies_something(self) -> SearchPolicy:
        for name, dimensions in self.space.items():
            if not dimensions:
                raise ValueError(f"space.{name} names no place of the chain to vary; add one, such as 0.temperature")
        return self
