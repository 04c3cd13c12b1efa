"""How often a rollout errs when it is looked at 200 times: its state machine is ticked as the flow ticks it.

One tick a minute, on traffic of which every row has feedback. Rates are of whole rollouts: one wrong answer at any
of the looks counts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import counted, generators, num_runs, took
from benchmarks.result import Figure
from tasks.contracts.route import Arm
from tasks.contracts.verdict import Verdict
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic, division_log_e
from tasks.decisions.rollout import RolloutPolicy, RolloutState, start, tick
from tasks.decisions.rollout_steps import named
from tasks.decisions.sequential import always_valid_p_value

LOOKS = 200
_ROWS_A_LOOK, _MIN_ROWS = 100, 100
_NUM_EQUAL, _NUM_AT_LIMITS, _NUM_HARMFUL = 80, 80, 20
_NUM_DIVIDED, _DIVIDED_AT_ONCE = 50_000, 10_000
_DIVISION_RAMP = ((1.0, 40), (5.0, 40), (25.0, 60), (50.0, 60))
"""Percent and looks of each step: 200 looks at divided traffic."""
_DIVISION_GOAL = 1e-3
_FOUND_AT_LEAST = 0.9
_DISAGREEMENT = 0.02
"""Share of the rows in shadow on which only the challenger is right."""
_BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
_NOWS = [(_BEGIN + timedelta(minutes=minute)).isoformat() for minute in range(LOOKS)]
_CHAMPION, _CHALLENGER = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)


@dataclass(frozen=True)
class Behaviour:
    """How an arm answers."""

    accuracy: float = 0.95
    error_rate: float = 0.005
    slower: float = 1.0
    """Times the usual latency, which is log-normal with a deviation of 0.5."""


@dataclass
class _Counts:
    """Both arms at one weight, so far."""

    requests: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    errors: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    correct: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    paired: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4, np.int64))
    latencies_ms: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = field(default_factory=lambda: ([], []))


class Traffic:
    """Labelled requests of one row, counted as the log's reader counts them."""

    def __init__(self, challenger: Behaviour, generator: np.random.Generator) -> None:
        self._arms, self._generator = (Behaviour(), challenger), generator
        self._steps: dict[float, _Counts] = {}

    def send(self, weight: float, num: int = _ROWS_A_LOOK) -> None:
        """Answer `num` requests at `weight`; 0 is shadow, where both arms answer all of them."""
        counts = self._steps.setdefault(weight, _Counts())
        if weight == 0.0:
            given, correct = np.array([num, num]), self._in_shadow(counts, num)
        else:
            challengers = self._generator.binomial(num, weight / 100.0)
            given = np.array([num - challengers, challengers])
            correct = self._generator.binomial(given, [arm.accuracy for arm in self._arms])
        errors = self._generator.binomial(given - correct, self._error_shares())
        counts.requests += given
        counts.correct += correct
        counts.errors += errors
        for drawn, arm, answered in zip(counts.latencies_ms, self._arms, given - errors, strict=True):
            drawn.append(arm.slower * self._generator.lognormal(0.0, 0.5, answered))

    def observe(self) -> Observation:
        """Return everything that was seen so far."""
        return Observation(tuple(self._seen(weight, counts) for weight, counts in self._steps.items()))

    def _in_shadow(self, counts: _Counts, num: int) -> NDArray[np.int64]:
        champion, challenger = self._arms
        won = _DISAGREEMENT
        lost = won + champion.accuracy - challenger.accuracy
        cells = [champion.accuracy - lost, lost, won, 1.0 - champion.accuracy - won]
        both, only_champion, only_challenger, _ = drawn = self._generator.multinomial(num, cells)
        counts.paired += drawn
        return np.array([both + only_champion, both + only_challenger])

    def _error_shares(self) -> list[float]:
        """Return the share of the wrong rows that failed altogether: a failed row is not right."""
        return [arm.error_rate / (1.0 - arm.accuracy) for arm in self._arms]

    @staticmethod
    def _seen(weight: float, counts: _Counts) -> StepTraffic:
        champion, challenger = (
            ArmStats(
                requests=int(counts.requests[arm]),
                errors=int(counts.errors[arm]),
                rows=int(counts.requests[arm]),
                labelled=int(counts.requests[arm]),
                correct=int(counts.correct[arm]),
                latencies_ms=np.concatenate(counts.latencies_ms[arm]),
            )
            for arm in (0, 1)
        )
        return StepTraffic(weight, champion, challenger, PairedCounts(*(int(count) for count in counts.paired)))


@dataclass(frozen=True)
class Ended:
    """How a rollout stood after its looks."""

    state: RolloutState
    alarmed: bool
    """Whether the division of traffic was called wrong at any look."""

    @property
    def harm(self) -> str:
        """What rolled it back: `errors`, `latency`, `accuracy` or `sample_ratio`; empty if no check did."""
        if self.state.status != "rolled_back" or self.state.latest is None:
            return ""
        failed = [check.name for check in self.state.latest.checks if check.verdict is Verdict.FAIL]
        return failed[0].partition("_p")[0] if failed else ""

    @property
    def promoted(self) -> bool:
        """Whether the challenger became champion."""
        return self.state.status == "promoted"


def roll_out(policy: RolloutPolicy, challenger: Behaviour, generator: np.random.Generator) -> Ended:
    """Tick one rollout until it ends, at most `LOOKS` times."""
    traffic, alarmed = Traffic(challenger, generator), False
    state = start("r", "m", _CHAMPION, _CHALLENGER, policy, _NOWS[0])
    for now in _NOWS:
        traffic.send(state.weight)
        state, decision = tick(state, traffic.observe(), policy, now)
        alarmed |= any(check.name == "sample_ratio" and check.verdict is Verdict.FAIL for check in decision.checks)
        if state.finished:
            break
    return Ended(state, alarmed)


def ramp() -> RolloutPolicy:
    """Return a rollout whose steps pause so long that it takes all looks: shadow, 5 %, 25 %, 50 %."""
    looks_each = LOOKS // 4
    steps: list[Any] = []
    for weight in (0, 5, 25, 50):
        steps += [weight, {"pause": {"duration": f"{looks_each - 1}m"}}]
    return RolloutPolicy.model_validate({"steps": steps, "min_rows_per_arm": _MIN_ROWS})


def half() -> RolloutPolicy:
    """Return a rollout that stays at 50 %, and promotes at the first look that proves enough."""
    return RolloutPolicy.model_validate({"steps": [50], "max_ticks_per_step": LOOKS, "min_rows_per_arm": _MIN_ROWS})


def at_every_limit(policy: RolloutPolicy) -> Behaviour:
    """Return a challenger that is as inaccurate, as unreliable and as slow as is just tolerated."""
    usual = Behaviour()
    return Behaviour(
        accuracy=usual.accuracy - policy.accuracy_margin,
        error_rate=usual.error_rate + policy.max_error_rate_increase,
        slower=policy.max_latency_ratio,
    )


def rollout_figures(seed: int) -> Iterator[Figure]:
    """Yield all that is counted of rollouts."""
    yield from _equal(seed)
    yield from _at_limits(seed)
    yield from _harmful(seed)
    for rows in (50, 1000):
        yield from _divided(seed, rows)


def _equal(seed: int) -> Iterator[Figure]:
    policy, name = ramp(), f"rollout, equal challenger, {LOOKS} looks"
    ended = _many(policy, Behaviour(), name, seed, num_runs(_NUM_EQUAL))
    rolled_back = sum(one.state.status == "rolled_back" for one in ended)
    yield from counted(f"{name}: rolled back", rolled_back, len(ended), at_most=policy.alpha)
    yield from counted(f"{name}: promoted at the last", sum(one.promoted for one in ended), len(ended))
    alarmed = sum(one.alarmed for one in ended)
    yield from counted(f"{name}: division called wrong", alarmed, len(ended))


def _at_limits(seed: int) -> Iterator[Figure]:
    policy, name = half(), f"rollout, challenger at every limit, {LOOKS} looks at {named(50.0)}"
    ended = _many(policy, at_every_limit(policy), name, seed, num_runs(_NUM_AT_LIMITS))
    promoted = sum(one.promoted for one in ended)
    yield from counted(f"{name}: promoted", promoted, len(ended), at_most=policy.alpha)
    harms = Counter(one.harm for one in ended)
    for harm in ("accuracy", "errors", "latency"):
        yield from counted(f"{name}: rolled back by {harm}", harms[harm], len(ended), at_most=policy.alpha)


def _harmful(seed: int) -> Iterator[Figure]:
    usual = Behaviour()
    cases = {
        "5 points less accurate": Behaviour(accuracy=usual.accuracy - 0.05),
        "3 points more failures": Behaviour(error_rate=usual.error_rate + 0.03),
        "twice as slow": Behaviour(slower=2.0),
    }
    for what, challenger in cases.items():
        name = f"rollout, challenger {what}"
        ended = _many(ramp(), challenger, name, seed, num_runs(_NUM_HARMFUL))
        found = [one.state for one in ended if one.harm]
        yield from counted(
            f"{name}: rolled back within {LOOKS} looks", len(found), len(ended), at_least=_FOUND_AT_LEAST
        )
        yield from took(f"{name}: looks until then", "looks", [state.tick for state in found])
        rows = [state.latest.rows["challenger"] for state in found if state.latest]
        yield from took(f"{name}: rows that it answered by then, shadow included", "rows", rows)


def _many(policy: RolloutPolicy, challenger: Behaviour, part: str, seed: int, num: int) -> Sequence[Ended]:
    return [roll_out(policy, challenger, generator) for generator in generators(seed, part, num)]


def _divided(seed: int, rows: int) -> Iterator[Figure]:
    """Count healthy rollouts in which the division of the traffic is ever called wrong, in arrays [runs]."""
    runs, policy = num_runs(_NUM_DIVIDED), RolloutPolicy()
    subject = f"rollout, rightly divided, {LOOKS} looks at {rows:,} requests each: division called wrong"
    alarmed, left = 0, runs
    for generator in generators(seed, subject, -(-runs // _DIVIDED_AT_ONCE)):
        at_once = min(left, _DIVIDED_AT_ONCE)
        alarmed += int(np.count_nonzero(ever_mismatched(generator, at_once, rows, policy.sample_ratio_alpha)))
        left -= at_once
    yield from counted(subject, alarmed, runs, at_most=_DIVISION_GOAL)


def ever_mismatched(generator: np.random.Generator, runs: int, rows: int, alpha: float) -> NDArray[np.bool_]:
    """Return [runs] whether `sample_ratio` finds a mismatch at any look: its e-values, in arrays."""
    mismatched, before = np.zeros(runs, dtype=np.bool_), np.zeros(runs)
    for weight, looks in _DIVISION_RAMP:
        challenger = np.zeros(runs, dtype=np.int64)
        log_e = before
        for look in range(1, looks + 1):
            challenger += generator.binomial(rows, weight / 100.0, size=runs)
            log_e = before + division_log_e(challenger, look * rows, weight)
            mismatched |= always_valid_p_value(log_e) <= alpha
        before = log_e
    return mismatched
