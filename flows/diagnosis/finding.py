"""What one check found, and how a check is run: on its own, within a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tasks.contracts.errors import InfrastructureError, StillhouseError

State = Literal["ok", "note", "broken"]
LIMIT_S = 60.0
"""For one check; services are asked with shorter limits of their own, and importing a client takes seconds."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    seconds: float = 0.0
    """How long it took."""


Check = Callable[[], Finding]


def guarded(name: str, check: Check, limit_s: float = LIMIT_S) -> Finding:
    """Run a check; what it raises, and that it does not end, are findings too and hide no other check."""
    found: list[Finding] = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: found.append(_tried(name, check)), name=f"doctor-{name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    finding = found[0] if found else Finding(name, "broken", f"no answer within {limit_s:g} s", "see what it asks for")
    return replace(finding, seconds=round(time.monotonic() - began, 3))


def _tried(name: str, check: Check) -> Finding:
    try:
        return check()
    except InfrastructureError as error:
        return Finding(name, "broken", str(error), "see the message; the setting that it names holds the address")
    except (StillhouseError, OSError) as error:
        return Finding(name, "broken", str(error), "see the message")
    except Exception as error:  # noqa: BLE001 - a defect in one check must not hide the others
        return Finding(name, "broken", f"{type(error).__name__}: {error}", "a defect in this check; please report it")
