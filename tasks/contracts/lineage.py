"""Where something came from: a tree of links, each checked."""

from collections.abc import Iterator
from typing import Final

from pydantic import Field

from tasks.contracts.value import Value

UNKNOWN: Final = "unknown"
"""Name of a link that nothing names."""
TRACKING_FACT: Final = "mlflow run"
"""Fact of a run: its id in MLflow."""

_NAMED: Final = {
    "run": "flow_runs",
    "model": "models",
    "version": "versions",
    "gate report": "gate_reports",
    "ledger entry": "ledger_entries",
    "route": "routes",
    "request": "requests",
}
_OF_A_MODEL: Final = {"ledger_entries"}


class Identities(Value):
    """What one thing and all that belongs to it are called, in each place that knows them."""

    flow_runs: tuple[str, ...]
    """In Prefect; also `run_id` of ledger entries, routes and replies."""
    tracking_runs: tuple[str, ...]
    """In MLflow."""
    models: tuple[str, ...]
    """SHA-256 of the deployable files."""
    versions: tuple[str, ...]
    """In the registry, as NAME/version."""
    gate_reports: tuple[str, ...]
    """SHA-256."""
    ledger_entries: tuple[str, ...]
    """As `MODEL sequence (action)`."""
    routes: tuple[str, ...]
    """As `MODEL version N`, the route's."""
    requests: tuple[str, ...]


class Link(Value):
    """One thing that another rests on."""

    kind: str
    """`request`, `answer`, `version`, `model`, `gate report`, `run`, `plan`, `stage`, `baseline`, `data`, …"""
    name: str
    """A digest, or what else identifies it."""
    facts: dict[str, str] = Field(default_factory=dict)
    missing: str = ""
    """Why it, or what it rests on, cannot be found or is not what it is said to be; empty if all is well."""
    rests_on: tuple["Link", ...] = ()

    def walk(self) -> Iterator["Link"]:
        """Yield this link and all below it, from the top."""
        yield self
        for link in self.rests_on:
            yield from link.walk()

    def identities(self) -> "Identities":
        """Return by which names everything below is known in the places that know it."""
        found: dict[str, dict[str, None]] = {name: {} for name in Identities.model_fields}
        for link in self.walk():
            field = _NAMED.get(link.kind)
            if field is not None and link.name != UNKNOWN:
                found[field][f"{link.facts['model']} {link.name}" if field in _OF_A_MODEL else link.name] = None
            if TRACKING_FACT in link.facts:
                found["tracking_runs"][link.facts[TRACKING_FACT]] = None
        return Identities.model_validate({name: tuple(names) for name, names in found.items()})

    @property
    def gaps(self) -> list[str]:
        """What is missing, anywhere below, a line each."""
        return [f"{link.kind} {link.name}: {link.missing}" for link in self.walk() if link.missing]
