"""How often monitoring alarms while nothing has changed, and how soon when something has.

Hourly windows of made-up traffic are judged and counted as the monitoring flow does it: `judge_window`,
`report_window` and `count_window` with the default policy, so with its cooldown and its k of n windows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.claims import counted, counted_a_month, generators, num_runs
from benchmarks.monitored_traffic import USUAL, Shift, rows, service, window
from benchmarks.result import Figure
from tasks.contracts.monitoring import ALARM_KINDS, AlarmState, CheckKind, WindowReport
from tasks.contracts.verdict import Verdict
from tasks.decisions.alarms import count_window
from tasks.decisions.monitoring import judge_window, report_window
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Rows, Service

_HOURS_A_MONTH = 720
_STABLE_SPANS, _SPAN_HOURS = 12, 360
"""Half months of stable traffic, each with references of its own."""
_STABLE_REFERENCES = (700, 2000)
_REQUESTS, _LABELS, _REFERENCE_REQUESTS = 1000, 500, 3000
_ROWS, _MANY_ROWS, _REFERENCE_ROWS = 500, 2000, 2000
_NUM_SHIFTED, _WINDOWS_TO_FIND, _CALM_WINDOWS = 60, 3, 1
_ALARMS_A_MONTH = 1.0
_FOUND_AT_LEAST = 0.9
_BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Shifted:
    """A change that has to be found, by which kind of check, and in how many rows."""

    told: str
    shift: Shift
    kind: CheckKind
    num_rows: int = _ROWS
    """Of a window."""
    num_reference: int = _REFERENCE_ROWS
    at_least: float | None = _FOUND_AT_LEAST
    """How often it should be found; None where the rows are known to be too few for it."""


_DOUBLED = Shift(first_class=0.2)
SHIFTS = (
    Shifted("brightness + 0.5 deviations", Shift(brightness=0.5), "drift"),
    Shifted("confidence - 0.1", Shift(confidence_drop=0.1), "drift"),
    Shifted("one class 10 % to 20 %", _DOUBLED, "drift", num_reference=700, at_least=None),
    Shifted("one class 10 % to 20 %", _DOUBLED, "drift"),
    Shifted("one class 10 % to 20 %", _DOUBLED, "drift", num_rows=_MANY_ROWS),
    Shifted("accuracy - 12 points", Shift(accuracy_drop=0.12), "accuracy"),
    Shifted("latency 1.5 times", Shift(slower=1.5), "latency"),
    Shifted("failures + 4 points", Shift(error_rate=0.045), "errors"),
)


class Monitored:
    """One model's alarms, with what is normal for it."""

    def __init__(self, content: Rows, normal_service: Service, policy: MonitoringPolicy) -> None:
        self._content, self._service, self._policy = content, normal_service, policy
        self._state: AlarmState | None = None
        self._hour = 0

    @classmethod
    def begin(cls, generator: np.random.Generator, num_reference: int, policy: MonitoringPolicy) -> "Monitored":
        """Draw the references of a new champion."""
        content = rows(generator, num_reference, labelled=True)
        return cls(content, service(generator, _REFERENCE_REQUESTS), policy)

    def look(
        self, generator: np.random.Generator, num_rows: int, shift: Shift = USUAL
    ) -> tuple[WindowReport, frozenset[CheckKind]]:
        """Draw the next hour, judge and count it; return its report and the kinds that raised an alarm with it."""
        seen = window(generator, num_rows, _REQUESTS, _LABELS, shift)
        checks = judge_window(seen, self._content, self._content, self._service, self._policy)
        since = _BEGIN + timedelta(hours=self._hour)
        report = report_window(
            seen,
            checks,
            model_name="m",
            model_digest="a" * 64,
            version=1,
            since=since.isoformat(),
            until=(since + timedelta(hours=1)).isoformat(),
            content_reference=None,
            service_reference=None,
        )
        self._state, raised = count_window(self._state, report, self._policy)
        self._hour += 1
        return report, frozenset(episode.kind for episode in raised)


def monitoring_figures(seed: int) -> Iterator[Figure]:
    """Yield all that is counted of monitoring."""
    yield from _stable(seed)
    for shifted in SHIFTS:
        yield from _found(shifted, seed)


def stable_alarms(
    generator: np.random.Generator, num_reference: int, num_hours: int, policy: MonitoringPolicy
) -> tuple[Counter[CheckKind], int]:
    """Return the alarms of each kind in stable traffic, and the windows in which a drift check failed."""
    model, alarms, failed = Monitored.begin(generator, num_reference, policy), Counter[CheckKind](), 0
    for _ in range(num_hours):
        report, raised = model.look(generator, _ROWS)
        alarms.update(raised)
        failed += report.verdict_of("drift") is Verdict.FAIL
    return alarms, failed


def windows_until_found(generator: np.random.Generator, shifted: Shifted, policy: MonitoringPolicy) -> int | None:
    """Return in which window from the change on its alarm is raised; None if in none of the first three."""
    model = Monitored.begin(generator, shifted.num_reference, policy)
    for _ in range(_CALM_WINDOWS):
        model.look(generator, shifted.num_rows)
    for number in range(1, _WINDOWS_TO_FIND + 1):
        _, raised = model.look(generator, shifted.num_rows, shifted.shift)
        if shifted.kind in raised:
            return number
    return None


def _stable(seed: int) -> Iterator[Figure]:
    policy, alarms, failed = MonitoringPolicy(), Counter[CheckKind](), 0
    spans, hours = _STABLE_SPANS, num_runs(_SPAN_HOURS)
    for span, generator in enumerate(generators(seed, "stable", spans)):
        num_reference = _STABLE_REFERENCES[span % len(_STABLE_REFERENCES)]
        raised, wrong = stable_alarms(generator, num_reference, hours, policy)
        alarms, failed = alarms + raised, failed + wrong
    months = spans * hours / _HOURS_A_MONTH
    sizes = " and ".join(f"{size:,}" for size in _STABLE_REFERENCES)
    name = f"monitoring, stable traffic, {spans} references of {sizes} rows"
    for kind in ALARM_KINDS:
        yield from counted_a_month(f"{name}: alarms of {kind}", alarms[kind], months, _ALARMS_A_MONTH)
    yield from counted(f"{name}: windows that fail by drift", failed, spans * hours, at_most=policy.drift_alpha)


def _found(shifted: Shifted, seed: int) -> Iterator[Figure]:
    policy, runs = MonitoringPolicy(), num_runs(_NUM_SHIFTED)
    subject = (
        f"monitoring, {shifted.told}, {shifted.num_rows:,} rows a window and {shifted.num_reference:,} known: "
        f"alarm within {_WINDOWS_TO_FIND} windows"
    )
    found: Sequence[int | None] = [
        windows_until_found(generator, shifted, policy) for generator in generators(seed, subject, runs)
    ]
    yield from counted(subject, sum(number is not None for number in found), runs, at_least=shifted.at_least)
