"""Drawing the next chains of a search with Optuna's tree-structured Parzen estimator.

A study is kept in memory alone. It is a function of its seed and of what it was told, so that a search that was
killed draws the same chains again, and finds what they made in the stage cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from tasks.decisions.pareto import Figures, Objective
from tasks.decisions.search_policy import Dimension

_CHAIN = "candidate"
_DECIMALS = 12
_FAILED = {"failed": 1e9}
"""More than any chain that got to its end is beyond its limits."""
_DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"higher": "maximize", "lower": "minimize"}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Draw:
    """The values to try in the chain of a candidate, by their place in it."""

    number: int
    candidate: str
    values: dict[str, Any]


class OptunaStudy:
    """A study over several chains, each with a space of its own; which chain is tried is drawn too."""

    def __init__(
        self,
        space: Mapping[str, Mapping[str, Dimension]],
        own: Mapping[str, Mapping[str, Any]],
        objectives: Sequence[Objective],
        baseline: Figures,
        seed: int,
    ) -> None:
        """Begin.

        Args:
            space: What varies, by candidate and place in its chain.
            own: The plan's own values at these places; they are tried first where the space has them all.
            objectives: What is told of every chain.
            baseline: Their values for the baseline; a chain that failed counts as this, and as beyond every limit.
            seed: Of everything that is drawn.
        """
        self._space = space
        self._objectives = objectives
        self._baseline = baseline
        self._trials: dict[int, optuna.Trial] = {}
        self._study = optuna.create_study(
            directions=[_DIRECTIONS[one.direction] for one in objectives],
            sampler=optuna.samplers.TPESampler(seed=seed),
        )
        for name, values in own.items():
            if all(dimension.takes(values[place]) for place, dimension in space[name].items()):
                stated = {
                    f"{name}.{place}": _stated(dimension, values[place]) for place, dimension in space[name].items()
                }
                self._study.enqueue_trial({_CHAIN: name, **stated})

    def ask(self, number: int) -> list[Draw]:
        """Draw `number` chains, each with regard to those that were drawn and not told yet."""
        return [self._draw(self._study.ask()) for _ in range(number)]

    def tell(self, number: int, figures: Figures | None, excess: Mapping[str, float]) -> None:
        """Tell what a chain reached.

        Args:
            number: Of the draw.
            figures: The value of every objective; None where the chain did not get to its end.
            excess: By how much it is beyond limits, by their names; at most 0 is within.
        """
        trial = self._trials.pop(number)
        if figures is None:
            # Optuna's own state for this hides the trial from the sampler, which is then drawn to where chains fail
            figures, excess = self._baseline, _FAILED
        for name, amount in excess.items():
            trial.set_constraint(name, amount)
        self._study.tell(trial, [figures[one.name] for one in self._objectives])

    def _draw(self, trial: optuna.Trial) -> Draw:
        self._trials[trial.number] = trial
        name = trial.suggest_categorical(_CHAIN, list(self._space))
        values = {
            place: _suggested(trial, f"{name}.{place}", dimension) for place, dimension in self._space[name].items()
        }
        return Draw(trial.number, name, values)


def _suggested(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:  # lists and mappings too: Optuna draws their position
        return dimension.choices[trial.suggest_categorical(name, list(range(len(dimension.choices))))]
    assert dimension.low is not None
    if dimension.is_whole:
        assert isinstance(dimension.step, int)
        return trial.suggest_int(name, int(dimension.low), int(dimension.last), step=dimension.step)
    value = trial.suggest_float(name, dimension.low, dimension.last, step=dimension.step, log=dimension.log)
    if dimension.step is not None:
        return round(value, _DECIMALS)  # 0.35, not 0.35000000000000003
    width = dimension.last - dimension.low
    return min(max(_legible(value, min(value, width) if dimension.log else width), dimension.low), dimension.last)


def _legible(value: float, span: float) -> float:
    """Round to at most a thousandth of `span`: people read and copy what is found, and no chain needs more."""
    return round(value, 3 - math.floor(math.log10(span)))


def _stated(dimension: Dimension, value: Any) -> Any:
    """Return a value of the plan as Optuna states it."""
    return value if dimension.choices is None else dimension.choices.index(value)
