"""The style sheets of the report, read from the package."""

from functools import cache
from importlib.resources import files


@cache
def read_stylesheet(name: str) -> str:
    """Return the text of a style sheet of this package."""
    return (files("tasks.reporting") / "templates" / name).read_text(encoding="utf-8")
