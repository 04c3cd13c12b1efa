"""Checks of the ledger's database and of the locks in it."""

from __future__ import annotations

import os
import platform
import time

from flows.diagnosis.finding import Finding
from tasks.adapters.ledger_probe import LedgerFacts, probe_ledger
from tasks.runtime.services import Services


def ledger(services: Services) -> Finding:
    """Read the ledger, once its tables are known to be this program's."""
    facts = probe_ledger(services.settings.ledger_address)
    refused = judge_ledger(facts)
    if refused.state == "broken" or facts.version is None:
        return refused
    champions = [name for name in services.registry.names() if services.ledger.champion(name)]
    return Finding("ledger", refused.state, f"{refused.detail}; champions of {_listed(champions)}", refused.remedy)


def judge_ledger(facts: LedgerFacts) -> Finding:
    """Judge what the database says of itself."""
    if facts.version is None:
        return Finding("ledger", "ok", f"{facts.address} answers; its tables are made at first use")
    detail = f"{facts.address} answers in {facts.round_trip_ms:.1f} ms, tables of version {facts.version}"
    if facts.version != facts.wanted:
        remedy = "`stillhouse ledger migrate`, once every older program has ended"
        if facts.version > facts.wanted:
            remedy = "install a newer Stillhouse here"
        return Finding("ledger", "broken", f"{detail}; this program needs {facts.wanted}", remedy)
    return Finding("ledger", "ok", detail)


def locks(services: Services) -> Finding:
    """Take a lock of its own and give it back."""
    began = time.monotonic()
    with services.locks.hold(f"doctor/{platform.node()}/{os.getpid()}", timeout_s=10.0):
        pass
    took = f"taken and given back in {1000 * (time.monotonic() - began):.0f} ms"
    if services.settings.ledger_is_shared:
        return Finding("locks", "ok", f"leases in the ledger's database, for all hosts that use it; {took}")
    remedy = "a ledger in PostgreSQL (STILLHOUSE_LEDGER_URL) lets several share them"
    return Finding("locks", "ok", f"files, for the processes of this host; {took}", remedy)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "no model yet"
