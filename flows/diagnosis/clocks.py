"""Whether the clocks of the services agree with this host's.

Locks do not depend on it. Acknowledgements of gateways do (they count for 30 s), windows of the prediction log, and
the time stamps of webhooks (five minutes).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from flows.diagnosis.asking import ask
from flows.diagnosis.finding import Finding
from tasks.adapters.ledger_probe import probe_ledger
from tasks.contracts.errors import StillhouseError
from tasks.runtime.settings import Settings

_NOTED_S, _BROKEN_S = 2.0, 15.0


def clocks(settings: Settings, addresses: Mapping[str, str]) -> Finding:
    """Ask every service that tells its time; those that do not answer have checks of their own."""
    offsets: dict[str, float] = {}
    for name, url in addresses.items():
        with suppress(OSError):
            if (offset := ask(url).clock_offset_s) is not None:
                offsets[name] = offset
    if settings.ledger_is_shared:
        with suppress(StillhouseError):
            if (offset := probe_ledger(settings.ledger_address).clock_offset_s) is not None:
                offsets["ledger"] = offset
    return judge_clocks(offsets)


def judge_clocks(offsets: Mapping[str, float]) -> Finding:
    """Judge the services' clocks minus this host's, seconds."""
    if not offsets:
        return Finding("clocks", "ok", "no other host's clock takes part")
    detail = ", ".join(f"{name} {offset:+.1f} s" for name, offset in offsets.items())
    worst = max(abs(offset) for offset in offsets.values())
    if worst <= _NOTED_S:
        return Finding("clocks", "ok", detail)
    remedy = "set the clocks by NTP; gateways whose acknowledgements look older than 30 s count as gone"
    return Finding("clocks", "broken" if worst > _BROKEN_S else "note", detail, remedy)
