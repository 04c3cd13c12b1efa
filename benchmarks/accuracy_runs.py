"""How often a rollout's accuracy is ever misjudged in 200 looks: the always-valid test alone, asked at every look.

A whole rollout costs seconds, this question a hundredth of one, so that many can be asked. The challenger lies exactly
at the margin, where both answers are wrong: that it is good enough, and that it is not. That counts more than a
rollout does, which promotes at its last step only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.claims import counted, generators, num_runs
from benchmarks.result import Figure
from tasks.decisions.accuracy_sequence import accuracy_evidence
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic
from tasks.decisions.rollout import RolloutPolicy
from tasks.decisions.rollout_steps import named

_NUM_RUNS, _ROWS_A_LOOK = 4_000, 100
_DISAGREEMENT = 0.02
"""Share of the rows in shadow on which only the challenger is right."""


@dataclass(frozen=True)
class Looks:
    """A rollout at its margin, every row of which has feedback."""

    champion: float
    """Its accuracy."""
    steps: tuple[tuple[float, int], ...]
    """Percent of the traffic, 0 in shadow, and looks of each step."""

    @property
    def told(self) -> str:
        """What it is, for people."""
        steps = ", ".join(f"{num} looks at {named(weight)}" for weight, num in self.steps)
        return f"{steps}, {_ROWS_A_LOOK} rows between them, champion right on {self.champion:.0%}"

    def misjudged(self, generator: np.random.Generator, policy: RolloutPolicy) -> tuple[bool, bool]:
        """Return whether the challenger is at any look proven good enough, and whether it is proven harmful."""
        margin, threshold = policy.accuracy_margin, -math.log(policy.alpha)
        good = harmful = False
        for seen in self.observations(generator, self.champion - margin):
            evidence = accuracy_evidence(seen, margin)
            if evidence is not None and evidence.log_e(-margin) >= threshold:
                good |= evidence.estimate > -margin
                harmful |= evidence.estimate < -margin
        return good, harmful

    def observations(self, generator: np.random.Generator, challenger: float) -> Iterator[Observation]:
        """Yield what has been seen at each look."""
        ended: tuple[StepTraffic, ...] = ()
        for weight, num in self.steps:
            for step in self._step(generator, weight, num, challenger):
                yield Observation((*ended, step))
            ended = (*ended, step)

    def _step(
        self, generator: np.random.Generator, weight: float, num: int, challenger: float
    ) -> Iterator[StepTraffic]:
        if weight == 0.0:
            lost, won = _DISAGREEMENT + self.champion - challenger, _DISAGREEMENT
            cells = [self.champion - lost, lost, won, 1.0 - self.champion - won]
            for table in generator.multinomial(_ROWS_A_LOOK, cells, size=num).cumsum(axis=0).tolist():
                yield StepTraffic(weight, paired=PairedCounts(*table))
            return
        theirs = generator.binomial(_ROWS_A_LOOK, weight / 100.0, size=num)
        given = np.stack([_ROWS_A_LOOK - theirs, theirs], axis=1)
        right = generator.binomial(given, [self.champion, challenger])
        for rows, correct in zip(given.cumsum(axis=0).tolist(), right.cumsum(axis=0).tolist(), strict=True):
            champion, new = (ArmStats(rows=n, labelled=n, correct=k) for n, k in zip(rows, correct, strict=True))
            yield StepTraffic(weight, champion, new)


_CASES = (
    Looks(0.95, ((50.0, 200),)),
    Looks(0.95, ((0.0, 50), (5.0, 50), (25.0, 50), (50.0, 50))),
    Looks(0.98, ((5.0, 200),)),
)


def accuracy_figures(seed: int) -> Iterator[Figure]:
    """Yield how often each case is misjudged."""
    policy, runs = RolloutPolicy(), num_runs(_NUM_RUNS)
    for case in _CASES:
        name = f"rollout, accuracy at its margin, {case.told}"
        answers = [case.misjudged(generator, policy) for generator in generators(seed, name, runs)]
        for what, found in zip(("good enough", "harmful"), zip(*answers, strict=True), strict=True):
            yield from counted(f"{name}: ever called {what}", sum(found), runs, at_most=policy.alpha)
