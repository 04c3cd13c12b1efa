"""Decisions as values: checks, gate reports, promotions."""

from enum import StrEnum
from typing import Literal

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.value import Digest, Slug, Value


class Verdict(StrEnum):
    """Three-valued: not being able to tell is neither a pass nor a failure."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @classmethod
    def worst(cls, verdicts: "list[Verdict]") -> "Verdict":
        """FAIL if any failed, else INCONCLUSIVE if any is or if there is none, else PASS."""
        if cls.FAIL in verdicts:
            return cls.FAIL
        if not verdicts or cls.INCONCLUSIVE in verdicts:
            return cls.INCONCLUSIVE
        return cls.PASS


class Check(Value):
    """One question asked of a candidate, with the numbers that answered it."""

    name: str
    verdict: Verdict
    estimate: float | None
    bound: float | None
    """The confidence bound that was held against the margin; None for exact checks."""
    margin: float | None
    num_rows: int
    blocking: bool = True
    """A non-blocking check is reported and does not change the report's verdict."""
    num_rows_needed: int | None = None
    """Rows that would settle an INCONCLUSIVE check at the plan's power, where that is finite."""
    detail: str = ""


class GateReport(Value):
    """The evidence that a promotion rests on; stored as an artifact under its own digest."""

    model_name: Slug
    candidate_name: str
    candidate: Digest
    baseline: Digest
    dataset: Digest
    plan: Digest
    verdict: Verdict
    checks: tuple[Check, ...]
    alpha: float
    """Error rate of each check of this candidate, after the share for other candidates."""
    created_at: str
    """UTC, ISO 8601; taken from the run's start so that a retry writes the same report."""


class StoredGateReport(Value):
    """A gate report and where it is stored: the digest is what a promotion names as its evidence."""

    report: GateReport
    artifact: ArtifactRef


class LedgerEntry(Value):
    """One row of the append-only ledger: who is champion from here on, and why."""

    model_name: Slug
    sequence: int
    """1, 2, 3 … per model; the row with the highest sequence names the champion."""
    action: Literal["bootstrap", "promote", "rollback"]
    candidate: Digest
    version: int
    """Version in the model registry."""
    gate_report: Digest | None
    expected_champion: Digest | None
    actor: str
    reason: str
    created_at: str
    run_id: str | None = None
    """Flow run that registered the version; None in entries of before it was noted."""
