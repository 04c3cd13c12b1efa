"""The numbers of a gate's check in the unit of what it measures."""

from collections.abc import Callable
from dataclasses import dataclass

from tasks.contracts.verdict import Check
from tasks.reporting.figures import MINUS, bytes_text, number, percent, points, signed_percent, times

Write = Callable[[float | None], str]

CLASS_PREFIX = "class:"
"""Checks of single classes are named `class:<class name>`."""
_AT_LEAST, _AT_MOST = "\u2265", "\u2264"


@dataclass(frozen=True)
class CheckFigures:
    """A check's numbers as text."""

    estimate: str
    bound: str
    limit: str
    """With the sign that says on which side the bound has to be; empty where nothing is asked."""


def check_figures(check: Check) -> CheckFigures:
    """Return the numbers of a check as text, each in its unit.

    A tolerated drop is stored as a positive margin; its limit is written as the lowest change that is allowed.
    """
    write, drop = _unit(check.name)
    limit = ""
    if check.margin is not None:
        limit = f"{_AT_LEAST} {write(-check.margin)}" if drop else f"{_AT_MOST} {write(check.margin)}"
    bound = "" if check.bound is None else write(check.bound)
    return CheckFigures(estimate=write(check.estimate), bound=bound, limit=limit)


def check_title(name: str) -> str:
    """Return a check's name for people."""
    if name.startswith(CLASS_PREFIX):
        return f"class {name.removeprefix(CLASS_PREFIX)}"
    if name.startswith("latency_"):
        return f"latency {name.removeprefix('latency_')}"
    return {
        "mcnemar": "McNemar",
        "rmse": "RMSE",
        "flips": "flips",
        "size": "size at rest",
        "memory": "peak memory",
    }.get(name, name)


def allowed_loss(check: Check) -> str:
    """Return the loss of quality that a check tolerates, without a sign."""
    write, _ = _unit(check.name)
    return write(check.margin).lstrip(f"+{MINUS}")


def _unit(name: str) -> tuple[Write, bool]:
    """Return how a check's numbers are written, and whether its margin is a tolerated drop."""
    if name in ("accuracy", "mcnemar") or name.startswith(CLASS_PREFIX):
        return points, True
    if name.startswith("latency_"):
        return times, False
    units: dict[str, Write] = {
        "size": bytes_text,
        "memory": bytes_text,
        "rmse": signed_percent,
        "flips": percent,
        "calibration": points,
    }
    return units.get(name, number), False
