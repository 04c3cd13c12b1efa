"""The Pareto front: candidates that no other candidate beats in everything that counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Preference = Literal["smallest", "fastest", "most_accurate"]
"""What a plan wants first of the candidates that are good enough."""


@dataclass(frozen=True)
class Objective:
    """A figure to compare by, and which way it improves."""

    name: str
    direction: Literal["higher", "lower"]


STANDARD_OBJECTIVES: tuple[Objective, ...] = (
    Objective("accuracy", "higher"),
    Objective("size_bytes", "lower"),
    Objective("latency_p50_ms", "lower"),
)

Figures = Mapping[str, float]
"""Value of every objective, by name."""


def dominates(first: Figures, second: Figures, objectives: Sequence[Objective]) -> bool:
    """Tell whether `first` is at least as good as `second` everywhere and better somewhere."""
    gains = [_gain(first, second, objective) for objective in objectives]
    return all(gain >= 0.0 for gain in gains) and any(gain > 0.0 for gain in gains)


def pareto_front(candidates: Mapping[str, Figures], objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Return the names of the candidates that none dominates, in the given order; equals stay together.

    Raises:
        ValueError: a figure is missing or not a number, so that nothing can be said of it.
    """
    for name, figures in candidates.items():
        for objective in objectives:
            if objective.name not in figures or np.isnan(figures[objective.name]):
                raise ValueError(f"candidate {name!r} has no figure {objective.name!r}; measure it or leave it out")
    return tuple(
        name
        for name, figures in candidates.items()
        if not any(dominates(other, figures, objectives) for other in candidates.values())
    )


def choose(candidates: Mapping[str, Figures], preference: Sequence[Objective]) -> str | None:
    """Return the best candidate by `preference`, the most important objective first; None of none.

    Later objectives only break exact ties of earlier ones; a full tie goes to the name that sorts first.
    Give it the candidates that passed the gate: within the margin all are good enough, so size or latency
    usually comes first.
    """
    if not candidates:
        return None

    def rank(name: str) -> tuple[tuple[float, ...], str]:
        figures = candidates[name]
        return tuple(-_signed(figures, objective) for objective in preference), name

    return min(candidates, key=rank)


def _gain(first: Figures, second: Figures, objective: Objective) -> float:
    return _signed(first, objective) - _signed(second, objective)


def _signed(figures: Figures, objective: Objective) -> float:
    value = figures[objective.name]
    return value if objective.direction == "higher" else -value
