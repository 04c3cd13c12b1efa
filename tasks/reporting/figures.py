"""How numbers are written for people: one rule per quantity, the same in every place.

A value that does not exist (None) is written as a dash; a value that is no finite number says so.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime

MISSING = "\u2014"
NBSP = "\u00a0"
MINUS = "\u2212"
TIMES = "\u00d7"

_PERCENT_METRICS = frozenset({"accuracy", "macro_f1", "train_accuracy"})
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB")
_COUNT_UNITS = ("", "k", "M", "G", "T")


def _finite(write: Callable[[float], str]) -> Callable[[float | None], str]:
    """Let a writer see finite numbers only."""

    def written(value: float | None) -> str:
        if value is None:
            return MISSING
        if math.isnan(value):
            return "not a number"
        if math.isinf(value):
            return "infinite" if value > 0 else f"{MINUS}infinite"
        return write(value).replace("-", MINUS)

    written.__doc__ = write.__doc__
    return written


def _three_digits(value: float) -> str:
    """Write with three significant digits, but never round away digits before the point."""
    magnitude = abs(value)
    decimals = 0 if magnitude >= 99.95 else 1 if magnitude >= 9.995 else 2
    return f"{value:,.{decimals}f}"


def _scaled(value: float, units: tuple[str, ...]) -> tuple[float, str]:
    for unit in units:
        if abs(value) < 999.5 or unit == units[-1]:
            return value, unit
        value /= 1000.0
    raise AssertionError("units are not empty")


@_finite
def bytes_text(value: float) -> str:
    """Write a size in decimal units: `512 B`, `61.5 kB`, `2.78 MB`."""
    scaled, unit = _scaled(value, _SIZE_UNITS)
    return f"{scaled:.0f}{NBSP}B" if unit == "B" else f"{_three_digits(scaled)}{NBSP}{unit}"


@_finite
def operations(value: float) -> str:
    """Write floating-point operations: `840 FLOP`, `12.1 MFLOP`."""
    scaled, unit = _scaled(value, _COUNT_UNITS)
    return f"{scaled:.0f}{NBSP}FLOP" if unit == "" else f"{_three_digits(scaled)}{NBSP}{unit}FLOP"


@_finite
def count(value: float) -> str:
    """Write a whole number with separators: `695,882`."""
    return f"{value:,.0f}"


@_finite
def milliseconds(value: float) -> str:
    """Write a latency: `0.043 ms`, `1.17 ms`, `12.3 ms`, `123 ms`."""
    return f"{value:.3f}{NBSP}ms" if abs(value) < 0.9995 else f"{_three_digits(value)}{NBSP}ms"


@_finite
def seconds(value: float) -> str:
    """Write a duration: `0.4 s`, `31 s`, `3 min 20 s`, `1 h 05 min`."""
    if value < 9.95:
        return f"{value:.1f}{NBSP}s"
    minutes, rest = divmod(round(value), 60)
    if minutes == 0:
        return f"{rest}{NBSP}s"
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


@_finite
def rate(value: float) -> str:
    """Write a throughput: `23,300 rows/s`."""
    rounded = round(value, 2 - math.floor(math.log10(value))) if value > 1000 else value
    return f"{rounded:,.0f}{NBSP}rows/s"


@_finite
def times(value: float) -> str:
    """Write a ratio with a multiplication sign: 45, 8.4 or 0.83 times."""
    decimals = 0 if value >= 9.95 else 1 if value >= 0.995 else 2
    return f"{value:,.{decimals}f}{TIMES}"


@_finite
def share(value: float) -> str:
    """Write a fraction as percent: `97.2 %`."""
    return f"{100 * value:.1f}{NBSP}%"


@_finite
def percent(value: float) -> str:
    """Write a fraction as percent with the digits that one row of a split is worth: `91.10 %`."""
    return f"{100 * value:.2f}{NBSP}%"


@_finite
def signed_percent(value: float) -> str:
    """Write a relative change: `+1.20 %`."""
    return f"{_signed(100 * value, 2)}{NBSP}%"


@_finite
def points(value: float) -> str:
    """Write a difference of two fractions in percentage points: `+0.20 points`."""
    return f"{_signed(100 * value, 2)}{NBSP}points"


@_finite
def number(value: float) -> str:
    """Write any other number with four significant digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:#.4g}"


@_finite
def signed_number(value: float) -> str:
    """Write a change of any other number."""
    return f"{value:+.3g}" if value else "0"


def metric(name: str, value: float | None) -> str:
    """Write a task metric: shares as percent, the others as numbers."""
    return percent(value) if name in _PERCENT_METRICS else number(value)


def metric_change(name: str, change: float | None) -> str:
    """Write a difference of a task metric: points for shares, the others as signed numbers."""
    return points(change) if name in _PERCENT_METRICS else signed_number(change)


def weight(value: float) -> str:
    """Write a challenger's share of the traffic: `shadow`, `5 %`."""
    return "shadow" if value == 0.0 else f"{value:g}{NBSP}%"


def moment(text: str) -> str:
    """Write an ISO 8601 time as `2026-11-21 12:27:39 UTC`; a text that is none stays as it is."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = at.tzname() or ""
    return f"{at:%Y-%m-%d %H:%M:%S} {zone}".rstrip()


def short_moment(text: str) -> str:
    """Write an ISO 8601 time without year and zone, in UTC: `21 Nov 12:27:39`; a text that is none stays as it is."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{at.astimezone(UTC):%d %b %H:%M:%S}"


def elapsed(start: str, end: str) -> str:
    """Write the time between two ISO 8601 times; a dash if either is none."""
    try:
        return seconds((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):
        return MISSING


def _signed(value: float, decimals: int) -> str:
    rounded = round(value, decimals)
    return f"{rounded:+.{decimals}f}" if rounded else f"{0:.{decimals}f}"
