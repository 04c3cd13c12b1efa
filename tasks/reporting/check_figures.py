"""The numbers of a gate's check in the unit of what it measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tasks.contracts.verdict import Check
from tasks.reporting.figures import (
    MINUS,
    bytes_text,
    count,
    milliseconds,
    number,
    percent,
    points,
    signed_percent,
    times,
)

Write = Callable[[float | None], str]
Side = Literal["drop", "most", "least"]
"""What a margin is: a tolerated drop, the most or the least that is allowed."""

CLASS_PREFIX = "class:"
"""Checks of single classes are named `class:<class name>`."""
_ROBUSTNESS_PREFIX = "robustness:"
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
    write, side = _unit(check.name)
    limit = ""
    if check.margin is not None:
        limit = {
            "drop": f"{_AT_LEAST} {write(-check.margin)}",
            "most": f"{_AT_MOST} {write(check.margin)}",
            "least": f"{_AT_LEAST} {write(check.margin)}",
        }[side]
    bound = "" if check.bound is None else write(check.bound)
    return CheckFigures(estimate=write(check.estimate), bound=bound, limit=limit)


def check_title(name: str) -> str:
    """Return a check's name for people."""
    if name.startswith(CLASS_PREFIX):
        return f"class {name.removeprefix(CLASS_PREFIX)}"
    if name.startswith("latency_"):
        return f"latency {name.removeprefix('latency_')}"
    if name.startswith(_ROBUSTNESS_PREFIX):
        return f"under {name.removeprefix(_ROBUSTNESS_PREFIX).replace('_', ' ')}"
    return {
        "macro_f1": "macro F1",
        "mcnemar": "McNemar",
        "brier": "Brier score",
        "rmse": "RMSE",
        "mae": "MAE",
        "cold_start": "cold start",
        "test_reuse": "uses of the test split",
        "cross_validation": "other data splits",
        "champion": "against the champion",
        "int8_coverage": "int8 coverage",
        "flips": "flips",
        "size": "size at rest",
        "memory": "peak memory",
    }.get(name, name)


def allowed_loss(check: Check) -> str:
    """Return the loss of quality that a check tolerates, without a sign."""
    write, _ = _unit(check.name)
    return write(check.margin).lstrip(f"+{MINUS}")


def _unit(name: str) -> tuple[Write, Side]:
    """Return how a check's numbers are written, and on which side of its margin they have to be."""
    if name in ("accuracy", "champion", "macro_f1", "mcnemar") or name.startswith(CLASS_PREFIX):
        return points, "drop"
    if name.startswith("latency_"):
        return times, "most"
    if name.startswith(_ROBUSTNESS_PREFIX):
        return points, "most"
    if name == "int8_coverage":
        return percent, "least"
    units: dict[str, Write] = {
        "size": bytes_text,
        "memory": bytes_text,
        "cold_start": milliseconds,
        "rmse": signed_percent,
        "mae": signed_percent,
        "flips": percent,
        "servability": percent,
        "test_reuse": count,
        "calibration": points,
        "cross_validation": points,
    }
    return units.get(name, number), "most"
