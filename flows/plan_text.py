"""A plan as YAML for people: each candidate below the reason for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Reasoned:
    """A candidate and the reason for it."""

    name: str
    chain: Sequence[Mapping[str, Any]]
    why: str


def plan_text(document: Mapping[str, Any], candidates: Sequence[Reasoned], closing: Sequence[str] = ()) -> str:
    """Return what a plan says beside its candidates, then these with their reasons as comments.

    Args:
        document: The plan as parsed; its own candidates are left out.
        candidates: In the order in which they are to stand.
        closing: Lines of a comment after the last.
    """
    lines = [_dumped({key: value for key, value in document.items() if key != "candidates"}), "candidates:"]
    for one in candidates:
        lines += [f"  # {one.why}", _indented(_dumped({one.name: list(one.chain)}))]
    return "\n".join([*lines, *(f"  # {line}" for line in closing)]) + "\n"


def _dumped(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, width=110, default_flow_style=None, allow_unicode=True).rstrip()


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
