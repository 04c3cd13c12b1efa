"""Places in a parsed plan, written as `key.position.key`: what `--set` and the space of a search name."""

from __future__ import annotations

from typing import Any

from tasks.contracts.errors import PlanError


def put(document: dict[str, Any], place: str, value: Any, origin: str) -> None:
    """Set the value at `place`; mappings that are missing on the way are made.

    Raises:
        PlanError: there is no such place; the message begins with `origin`.
    """
    *parents, last = place.split(".")
    here: Any = document
    for part in parents:
        here = _below(here, part, origin)
    if isinstance(here, list):
        here[_index(here, last, origin)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise PlanError(f"{origin}: there is nothing below {parents[-1]!r}; the value there is {here!r}")


def look_up(document: Any, place: str) -> Any:
    """Return the value at `place`.

    Raises:
        KeyError: there is none.
    """
    here = document
    for part in place.split("."):
        if isinstance(here, list | tuple) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        elif isinstance(here, dict) and part in here:
            here = here[part]
        else:
            raise KeyError(place)
    return here


def _below(here: Any, part: str, origin: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, part, origin)]
    if isinstance(here, dict):
        if here.get(part) is None:
            here[part] = {}
        return here[part]
    raise PlanError(f"{origin}: there is nothing below {part!r}; the value there is {here!r}")


def _index(here: list[Any], part: str, origin: str) -> int:
    if not part.isdigit() or int(part) >= len(here):
        raise PlanError(f"{origin}: {part!r} is not a position of a list of {len(here)} (they start at 0)")
    return int(part)
