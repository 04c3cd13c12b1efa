"""Validation errors of a plan, said in the user's terms: the place, the value, and the nearest known key."""

import difflib
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_UNION_MEMBERS = ("TrainBaseline", "LoadBaseline")
"""Names that pydantic puts into a fault's place for the members of an undiscriminated union."""


def explain(error: ValidationError, document: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return one line per fault of `document`, which `schema` (JSON schema) describes."""
    tags = _discriminator_values(schema)
    lines = []
    for fault in _of_the_intended_member(error.errors()):
        place = _place_in_document(fault["loc"], document, tags)
        lines.append(f"  - {_describe(fault, place, document, schema)}")
    return "\n".join(dict.fromkeys(lines))


def _of_the_intended_member(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """Of an undiscriminated union keep the faults of the member with the fewest: that is the one that was meant."""
    by_member: dict[str, list[ErrorDetails]] = {}
    for fault in faults:
        member = next((str(part) for part in fault["loc"] if part in _UNION_MEMBERS), "")
        by_member.setdefault(member, []).append(fault)
    members = [member for member in by_member if member]
    if len(members) < 2:
        return faults
    intended = min(members, key=lambda member: len(by_member[member]))
    return by_member.get("", []) + by_member[intended]


def _discriminator_values(schema: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for part in _walk(schema):
        mapping = part.get("discriminator", {}).get("mapping", {}) if isinstance(part, dict) else {}
        found.update(mapping)
    return found


def _walk(schema: Any) -> list[Any]:
    children = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    return [schema, *(part for child in children for part in _walk(child))]


def _place_in_document(
    location: tuple[int | str, ...], document: dict[str, Any], tags: set[str]
) -> tuple[int | str, ...]:
    """Remove the union tags that pydantic adds to a place and that the user never wrote."""
    place: list[int | str] = []
    here: Any = document
    for part in location:
        known = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int))
        if not known and (part in tags or part in _UNION_MEMBERS):
            continue
        place.append(part)
        here = here[part] if known and (isinstance(here, dict) or int(part) < len(here)) else None
    return tuple(place)


def _describe(
    fault: ErrorDetails, place: tuple[int | str, ...], document: dict[str, Any], schema: dict[str, Any]
) -> str:
    shown = ".".join(str(part) for part in place) or "the plan"
    if fault["type"] == "extra_forbidden":
        return f"{shown}: unknown key; {_nearest_key(place, document, schema)}"
    if fault["type"] == "missing":
        return f"{shown}: is required"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault.get("input")
    value = "" if isinstance(given, dict | list | tuple) or given is None else f" (got {given!r})"
    return f"{shown}: {message}{value}"


def _nearest_key(place: tuple[int | str, ...], document: dict[str, Any], schema: dict[str, Any]) -> str:
    known = sorted(_keys_allowed_beside(place, document, schema))
    close = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(known)}"


def _keys_allowed_beside(place: tuple[int | str, ...], document: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Follow `place` through the schema; of the objects that may stand there, take the one that was meant."""
    siblings: Any = document
    possible = _alternatives(schema, schema)
    for part in place[:-1]:
        siblings = siblings[part]
        possible = [inner for outer in possible for inner in _below(outer, part, schema)]
    objects = [one for one in possible if "properties" in one]
    if not objects:
        return set()
    return set(max(objects, key=lambda one: _match(one["properties"], siblings))["properties"])


def _alternatives(part: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Resolve references and unions to plain schemas."""
    if "$ref" in part:
        return _alternatives(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    members = [*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())]
    return [one for member in members for one in _alternatives(member, schema)] if members else [part]


def _below(outer: dict[str, Any], part: int | str, schema: dict[str, Any]) -> list[dict[str, Any]]:
    if isinstance(part, int):
        inner = outer.get("items")
    else:
        inner = outer.get("properties", {}).get(part) or outer.get("additionalProperties")
    patterns = [] if isinstance(part, int) else list(outer.get("patternProperties", {}).values())
    return [one for place in (inner, *patterns) if isinstance(place, dict) for one in _alternatives(place, schema)]


def _match(properties: dict[str, Any], given: dict[str, Any]) -> float:
    score = 0.0
    for name, value in given.items():
        rule = properties.get(name)
        if rule is None:
            continue
        score += 10.0 if "const" in rule and rule["const"] == value else -10.0 if "const" in rule else 1.0
    return score - 0.01 * len(properties)
