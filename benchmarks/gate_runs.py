"""How often the gate passes a candidate that lies at its margin, and how often it settles one that is good.

Every run draws the rows' answers and asks `judge`, as the gate's task does. A candidate at the margin is the worst
case of all that must not pass: the others are passed more seldom. N rows, K classes.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import counted, generators, num_runs
from benchmarks.result import Figure, figure
from tasks.contracts.data import Task
from tasks.contracts.verdict import Verdict
from tasks.decisions.gate_policy import CheckKind, Constraints, GatePolicy
from tasks.decisions.gate_power import chance_to_settle, rows_to_settle
from tasks.decisions.gates import Evidence, Question, judge, verdict_of
from tasks.decisions.paired_power import settling_power

ALPHA = GatePolicy().alpha
"""Error rate of a run."""
_NUM_RUNS = 10_000
_CASES = ((0.01, 0.02), (0.01, 0.05), (0.02, 0.02), (0.02, 0.05), (0.03, 0.1))
"""Margin, and share of rows on which exactly one model is right."""
_SMALL_SPLIT = (0.02, 0.05, 300)
"""Margin, discordance and rows of a split that seldom settles it."""
_FAMILY = (0.02, 0.06, 1000, 3)
"""Margin, discordance, rows and number of candidates of one run."""
_ACCURACY = 0.93
"""The baseline's."""
_TOLERATED_POINTS, _RUNS_FOR_POINTS = 2.0, 5_000
"""How far found and computed power may be apart; of fewer runs, what is found is uncertain by as much itself."""


@dataclass(frozen=True)
class PairedCase:
    """A candidate and a baseline with known shares of rows that are lost, won, and wrong in both."""

    margin: float
    discordance: float
    num_rows: int
    drop: float

    @property
    def shares(self) -> list[float]:
        """Of rows right in both, only in the baseline, only in the candidate, and in none."""
        lost, won = (self.discordance + self.drop) / 2.0, (self.discordance - self.drop) / 2.0
        return [_ACCURACY - lost, lost, won, 1.0 - _ACCURACY - won]

    @property
    def told(self) -> str:
        """What it is, for people."""
        return f"margin {self.margin:g}, {self.discordance:.0%} discordant, {self.num_rows:,} rows"

    def policy(self) -> GatePolicy:
        """The plan's, that asks of accuracy alone and assumes the true discordance."""
        return asking("accuracy", assumed_discordance=self.discordance)

    def constraints(self) -> Constraints:
        """The plan's."""
        return Constraints(max_accuracy_drop=self.margin)

    def verdicts(self, num: int, part: str, seed: int) -> Iterator[Verdict]:
        """Yield the gate's answer to each of `num` test splits."""
        labels = np.arange(self.num_rows) % 2
        right = np.eye(2, dtype=np.float32)[labels]
        wrong = right[:, ::-1]
        asked = question("classification", ("no", "yes"), labels, self.constraints(), self.policy())
        counts = np.random.default_rng([seed, *part.encode()]).multinomial(self.num_rows, self.shares, size=num)
        for both, lost, won, _ in counts:
            # where in the split a row stands tells the gate nothing, so that rows of a kind may stand together
            ours, theirs = right.copy(), right.copy()
            ours[both : both + lost] = wrong[both : both + lost]
            theirs[both + lost : both + lost + won] = wrong[both + lost : both + lost + won]
            neither = slice(both + lost + won, None)
            ours[neither] = theirs[neither] = wrong[neither]
            yield verdict_of(judge(asked, evidence(ours), evidence(theirs)))


def gate_figures(seed: int) -> Iterator[Figure]:
    """Yield all that is counted of the gate."""
    yield from _at_the_margin(seed)
    yield from _power(seed)
    yield from _family(seed)


def passes(verdicts: Iterator[Verdict]) -> int:
    """Count the passes."""
    return sum(verdict is Verdict.PASS for verdict in verdicts)


def _at_the_margin(seed: int) -> Iterator[Figure]:
    runs = num_runs(_NUM_RUNS)
    cases = [(margin, discordance, _rows(margin, discordance)) for margin, discordance in _CASES]
    for margin, discordance, num_rows in (*cases, _SMALL_SPLIT):
        case = PairedCase(margin, max(discordance, margin), num_rows, drop=margin)
        subject = f"gate, accuracy at its margin, passed: {case.told}"
        exact = settling_power(num_rows, case.discordance, math.nextafter(margin, 0.0), margin, ALPHA)
        found = passes(case.verdicts(runs, subject, seed))
        yield from counted(subject, found, runs, at_most=ALPHA, computed=exact)


def _power(seed: int) -> Iterator[Figure]:
    runs, apart = num_runs(_NUM_RUNS), []
    cases = [(margin, discordance, _rows(margin, discordance)) for margin, discordance in _CASES]
    for margin, discordance, num_rows in (*cases, _SMALL_SPLIT):
        case = PairedCase(margin, discordance, num_rows, drop=0.0)
        subject = f"gate, equally accurate, passed: {case.told}"
        computed = chance_to_settle(num_rows, case.constraints(), case.policy(), 1)
        found = passes(case.verdicts(runs, subject, seed))
        apart.append(100.0 * abs(found / runs - computed))
        yield from counted(subject, found, runs, computed=computed)
    if runs < _RUNS_FOR_POINTS:
        return
    subject = "gate, power: found and computed apart, at worst"
    yield figure("found", "points", [max(apart)], subject=subject)
    yield figure("at most", "points", [_TOLERATED_POINTS], subject=subject)


def _family(seed: int) -> Iterator[Figure]:
    """Gate several candidates at the margin on one split: the best of those that pass would be promoted."""
    margin, discordance, num_rows, num_candidates = _FAMILY
    case, runs = PairedCase(margin, discordance, num_rows, drop=margin), num_runs(_NUM_RUNS)
    subject = f"gate, {num_candidates} candidates at its margin, any passed: {case.told}"
    labels = np.arange(num_rows) % 2
    one_hot = np.eye(2, dtype=np.float32)
    asked = question("classification", ("no", "yes"), labels, case.constraints(), case.policy(), num_candidates)
    both, lost, won, neither = case.shares
    found = 0
    for generator in generators(seed, subject, runs):
        baseline_right = generator.random(num_rows) < _ACCURACY
        # right again with the share of rows that are not lost, or right at last with that of rows that are won
        right = np.where(baseline_right, both / (both + lost), won / (won + neither))
        theirs = evidence(one_hot[labels ^ ~baseline_right])
        found += any(
            verdict_of(judge(asked, evidence(one_hot[labels ^ (draws >= right)]), theirs)) is Verdict.PASS
            for draws in generator.random((num_candidates, num_rows))
        )
    yield from counted(subject, found, runs, at_most=ALPHA)


def _rows(margin: float, discordance: float) -> int:
    """Return the rows that the product asks for where a plan has one candidate."""
    policy = asking("accuracy", assumed_discordance=discordance)
    rows = rows_to_settle(Constraints(max_accuracy_drop=margin), policy, 1)
    assert rows is not None, "a drop of 0 lies below every margin"
    return rows


@functools.cache
def asking(asked: CheckKind, **policy: float) -> GatePolicy:
    """Return the default policy, that asks one thing only."""
    skipped = {kind: "skip" for kind in get_args(CheckKind) if kind != asked}
    return GatePolicy.model_validate({"checks": skipped, **policy})


def question(
    task: Task,
    names: tuple[str, ...],
    labels: NDArray[np.generic],
    constraints: Constraints,
    policy: GatePolicy,
    num_candidates: int = 1,
) -> Question:
    """Return what a run asks of its rows."""
    return Question(
        task=task,
        class_names=names,
        labels=labels,
        constraints=constraints,
        policy=policy,
        num_candidates=num_candidates,
    )


def evidence(outputs: NDArray[np.float32]) -> Evidence:
    """Return a model's outputs as evidence; nothing else is asked of it."""
    return Evidence(outputs=outputs, latency_ms=np.empty(0), size_bytes=1)
