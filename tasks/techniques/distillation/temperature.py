"""How the temperature of the soft term moves while the student trains."""

import math
from typing import Literal

Course = Literal["constant", "linear", "cosine"]


def temperature_at(step: int, num_steps: int, first: float, last: float, course: Course) -> float:
    """Return T of optimizer step `step` (from 0) of `num_steps`.

    With r = step / (num_steps - 1) from 0 to 1, `linear` is first + r (last - first) and `cosine` is
    last + (first - last) (1 + cos(pi r)) / 2; `constant` is `first`. A pure function of the step, so that a
    resumed run needs no state of it.
    """
    if course == "constant":
        return first
    progress = step / max(1, num_steps - 1)
    if course == "linear":
        return first + progress * (last - first)
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


class ScheduledTemperature:
    """The temperature of the step that is being made; `before_step` is for `fit`, which calls it before each."""

    def __init__(self, first: float, last: float, course: Course) -> None:
        self._first, self._last, self._course = first, last, course
        self.current = first
        """T of this step."""

    def before_step(self, step: int, num_steps: int) -> None:
        """Move to optimizer step `step` of `num_steps`."""
        self.current = temperature_at(step, num_steps, self._first, self._last, self._course)
