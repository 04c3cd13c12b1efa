"""The gate with its numbers: every check of every candidate."""

from dataclasses import dataclass

from tasks.contracts.run import RunDossier
from tasks.contracts.verdict import Check, Verdict
from tasks.reporting import figures
from tasks.reporting.check_figures import CLASS_PREFIX, CheckFigures, check_figures, check_title


@dataclass(frozen=True)
class CheckRow:
    """One check."""

    title: str
    verdict: Verdict
    numbers: CheckFigures
    num_rows: str
    needed: str
    """Rows that would settle it; empty where it is settled or no number would do."""
    detail: str


@dataclass(frozen=True)
class GateTable:
    """The gate's answer for one candidate."""

    candidate: str
    verdict: Verdict
    failure: str | None
    """Why it was not judged."""
    confidence: str
    digest: str
    """Of the stored report; empty if it was not judged."""
    blocking: tuple[CheckRow, ...]
    reported: tuple[CheckRow, ...]
    classes: tuple[CheckRow, ...]
    """Reported too, one row a class; the worst first."""

    @property
    def class_counts(self) -> str:
        """Say how many classes got which verdict."""
        verdicts = [row.verdict for row in self.classes]
        told = (f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts)
        return f"{len(verdicts)} checks of single classes: {', '.join(told)}"


def make_gate_tables(dossier: RunDossier) -> tuple[GateTable, ...]:
    """Return the gate's tables in the order of the candidates."""
    return tuple(_table(dossier, candidate.name, candidate.gate.verdict) for candidate in dossier.record.candidates)


def _table(dossier: RunDossier, name: str, verdict: Verdict) -> GateTable:
    stored = dossier.candidates[name].gate
    if stored is None:
        reason = dossier.candidates[name].failure or "it was not judged"
        return GateTable(name, verdict, reason, "", "", (), (), ())
    checks = stored.report.checks
    classes = [check for check in checks if check.name.startswith(CLASS_PREFIX)]
    others = [check for check in checks if not check.name.startswith(CLASS_PREFIX)]
    return GateTable(
        name,
        verdict,
        failure=None,
        confidence=figures.percent(1.0 - stored.report.alpha),
        digest=stored.artifact.digest,
        blocking=tuple(_row(check) for check in others if check.blocking),
        reported=tuple(_row(check) for check in others if not check.blocking),
        classes=tuple(_row(check) for check in sorted(classes, key=_worst_first)),
    )


def _row(check: Check) -> CheckRow:
    return CheckRow(
        title=check_title(check.name),
        verdict=check.verdict,
        numbers=check_figures(check),
        num_rows=figures.count(check.num_rows),
        needed=figures.count(check.num_rows_needed) if check.num_rows_needed else "",
        detail=check.detail,
    )


def _worst_first(check: Check) -> tuple[int, float]:
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    return order.index(check.verdict), float("-inf") if check.estimate is None else check.estimate
