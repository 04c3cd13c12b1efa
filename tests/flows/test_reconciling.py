import pytest

from flows import reconciling
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.verdict import LedgerEntry
from tasks.stages.reconciling import Reconciliation

ENTRY = LedgerEntry(
    model_name="a", sequence=1, action="bootstrap", candidate="a" * 64, version=1, gate_report=None,
    expected_champion=None, actor="x", reason="y", created_at="2026-01-01T00:00:00+00:00",
)  # fmt: skip


class Services:
    """A registry of four models."""

    class registry:  # noqa: N801 - stands for the attribute
        @staticmethod
        def names():
            return ["broken", "mended", "others", "well"]


class Log:
    def __init__(self):
        self.lines = []

    def info(self, text, *values):
        self.lines.append(text % values)

    error = info


@pytest.fixture
def log(monkeypatch):
    def reconcile(name):
        if name == "broken":
            raise InfrastructureError("the registry is away")
        changes = ("alias champion: version 2 -> version 1",) if name == "mended" else ()
        return None if name == "others" else Reconciliation(champion=ENTRY, route_version=1, changes=changes)

    log = Log()
    monkeypatch.setattr(reconciling, "connect", Services)
    monkeypatch.setattr(reconciling, "reconcile", reconcile)
    monkeypatch.setattr(reconciling, "get_run_logger", lambda: log)
    return log


def test_reconcile_models_tries_every_model_before_it_fails(log):
    with pytest.raises(InfrastructureError, match="away"):
        reconciling.reconcile_models.fn()

    assert log.lines == [
        "broken could not be reconciled: the registry is away",
        "mended was mended: alias champion: version 2 -> version 1",
    ]


def test_reconcile_models_returns_what_was_changed(log, monkeypatch):
    monkeypatch.setattr(Services.registry, "names", staticmethod(lambda: ["mended", "others", "well"]))

    assert reconciling.reconcile_models.fn() == {"mended": ("alias champion: version 2 -> version 1",)}
