"""How often the gate passes an RMSE or a macro F1 that lies at its margin, and one that is as good as the baseline's.

The cases are of the kinds for which bounds from the rows alone are too hopeful: few rows carry the difference, some
errors are far larger than others, a class is rare. Every run asks `judge`. N rows, K classes.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.claims import counted, generators, num_runs
from benchmarks.gate_runs import ALPHA, asking, evidence, passes, question
from benchmarks.result import Figure
from tasks.decisions.gate_policy import Constraints
from tasks.decisions.gates import Evidence, Question, judge, verdict_of

_NUM_NAMED, _NUM_OTHERS, _NUM_GOOD = 10_000, 4_000, 2_000
_ERROR_MARGIN = 0.02
_RIGHT = 0.9
"""Share of rows on which the baseline of a `ClassCase` is right."""

Rows = tuple[Question, Evidence, Evidence]
"""One test split: the question, the candidate's evidence and the baseline's."""


class LossCase(Protocol):
    """A candidate and a baseline whose true qualities are known."""

    @property
    def told(self) -> str:
        """What it is, for people."""

    def draw(self, generator: np.random.Generator, *, good: bool) -> Rows:
        """Draw a test split; the candidate is as good as the baseline if `good`, else worse by the margin."""


@dataclass(frozen=True)
class ErrorCase:
    """RMSE: the candidate adds an error of its own, independent of the baseline's, on a share of the rows."""

    num_rows: int
    changed_share: float = 1.0
    spread: float = 0.0
    """Deviation of the logarithm of a row's scale, which all errors on it have; 0 if all rows are alike."""

    @property
    def told(self) -> str:
        """What it is, for people."""
        where = "a little larger everywhere" if self.changed_share == 1.0 else f"larger on {self.changed_share:.0%}"
        scales = f", scales of rows log-normal ({self.spread:g})" if self.spread else ""
        return f"RMSE, errors {where}{scales}, margin {_ERROR_MARGIN:.0%}, {self.num_rows:,} rows"

    def draw(self, generator: np.random.Generator, *, good: bool) -> Rows:
        """Draw targets and predictions; a good candidate's baseline errs as it does, on rows of its own.

        The mean of the added errors' squares is (1 + margin)^2 - 1 of the others'.
        """
        targets, errors, *added = generator.standard_normal((4, self.num_rows))
        size = math.sqrt(((1.0 + _ERROR_MARGIN) ** 2 - 1.0) / self.changed_share)
        ours, theirs = (size * own * (generator.random(self.num_rows) < self.changed_share) for own in added)
        scale = np.exp(self.spread * generator.standard_normal(self.num_rows))
        asked = question("regression", (), targets, Constraints(max_rmse_increase=_ERROR_MARGIN), asking("rmse"))
        candidate, baseline = (
            (targets + scale * (errors + own))[:, None].astype(np.float32) for own in (ours, theirs if good else 0.0)
        )
        return asked, evidence(candidate), evidence(baseline)


@dataclass(frozen=True)
class ClassCase:
    """Macro F1: the candidate gives the baseline's answer, but for a share of the rows on which it decides anew."""

    num_rows: int
    class_shares: tuple[float, ...]
    changed_share: float = 0.05
    changed_right: float = 0.4

    @property
    def told(self) -> str:
        """What it is, for people."""
        classes = f"{len(self.class_shares)} classes, the smallest {min(self.class_shares):.0%}"
        return f"macro F1, margin {self.margin:.3f}, {self.num_rows:,} rows of {classes}"

    def draw(self, generator: np.random.Generator, *, good: bool) -> Rows:
        """Draw labels and answers; a good candidate is right as often as the baseline where it decides anew."""
        kinds, shares = self._kinds(_RIGHT if good else self.changed_right)
        labels, ours, theirs = kinds[generator.choice(len(kinds), self.num_rows, p=shares)].T
        names = tuple(f"class {index}" for index in range(len(self.class_shares)))
        constraints = Constraints(max_macro_f1_drop=self.margin)
        one_hot = np.eye(len(names), dtype=np.float32)
        asked = question("classification", names, labels, constraints, asking("macro_f1"))
        return asked, evidence(one_hot[ours]), evidence(one_hot[theirs])

    @functools.cached_property
    def margin(self) -> float:
        """The true drop of macro F1, over all rows that there can be."""
        kinds, shares = self._kinds(self.changed_right)
        labels, ours, theirs = kinds.T
        scores = [f1_score(labels, answers, average="macro", sample_weight=shares) for answers in (theirs, ours)]
        return float(scores[0] - scores[1])

    def _kinds(self, changed_right: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return _kinds(self.class_shares, self.changed_share, changed_right)


@functools.cache
def _kinds(
    class_shares: tuple[float, ...], changed_share: float, changed_right: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return every combination of label, candidate's and baseline's answer [K^3, 3], and its probability [K^3]."""
    num = len(class_shares)
    kinds = np.array(list(itertools.product(range(num), repeat=3)))
    labels, ours, theirs = kinds.T

    def answers(given: NDArray[np.int64], right: float) -> NDArray[np.float64]:
        return np.where(given == labels, right, (1.0 - right) / (num - 1))

    kept = (1.0 - changed_share) * (ours == theirs) + changed_share * answers(ours, changed_right)
    shares: NDArray[np.float64] = np.array(class_shares)[labels] * answers(theirs, _RIGHT) * kept
    return kinds, shares / shares.sum()


_FOUR = (0.5, 0.3, 0.15, 0.05)
_TEN = (0.3, 0.2, 0.12, 0.1, 0.08, 0.06, 0.05, 0.05, 0.02, 0.02)
_NAMED: tuple[LossCase, ...] = (ErrorCase(500), ErrorCase(500, 0.1), ClassCase(1000, _FOUR))
_OTHERS: tuple[LossCase, ...] = (
    ErrorCase(100),
    ErrorCase(200, 0.2),
    ErrorCase(500, 0.05),
    ErrorCase(500, spread=0.5),
    ErrorCase(2000, 0.02),
    ClassCase(300, _FOUR),
    ClassCase(1000, (0.95, 0.05)),
    ClassCase(3000, _TEN, 0.12, 0.2),
)


def loss_figures(seed: int) -> Iterator[Figure]:
    """Yield all that is counted of the gate's RMSE and macro F1."""
    for cases, runs in ((_NAMED, num_runs(_NUM_NAMED)), (_OTHERS, num_runs(_NUM_OTHERS))):
        for case in cases:
            yield from counted(*_passed(case, "at its margin", runs, seed, good=False), runs, at_most=ALPHA)
    runs = num_runs(_NUM_GOOD)
    for case in (*_NAMED, ErrorCase(2000)):
        yield from counted(*_passed(case, "as good as the baseline", runs, seed, good=True), runs)


def _passed(case: LossCase, how: str, runs: int, seed: int, *, good: bool) -> tuple[str, int]:
    subject = f"gate, {how}, passed: {case.told}"
    draws = (case.draw(generator, good=good) for generator in generators(seed, subject, runs))
    return subject, passes(verdict_of(judge(*rows)) for rows in draws)
