"""Where the command line writes: people read standard error and tables, programs read JSON from standard output."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from rich.console import Console


@cache
def console() -> Console:
    """Standard output, for results."""
    return Console()


@cache
def error_console() -> Console:
    """Standard error, for progress and errors."""
    return Console(stderr=True)


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """Write a value as JSON to standard output, without colours or wrapping; numbers that JSON lacks are text."""
    console().out(to_json(value, indent=2, inf_nan_mode="strings", fallback=str).decode(), highlight=False)


def bytes_text(size: float) -> str:
    """Write a size for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
