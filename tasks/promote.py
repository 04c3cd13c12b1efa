"""Promote a version that passed its gate."""

from tasks.contracts.value import Digest
from tasks.contracts.verdict import LedgerEntry
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.promoting import promote as promote_version


@effect_task
def promote(
    model_name: str,
    version: int,
    gate_report: Digest,
    expected_champion: Digest | None,
    actor: str,
    reason: str,
    now: str,
) -> LedgerEntry:
    """Make the version champion, exactly once: ledger, then alias, then route."""
    return promote_version(connect(), gate_report, model_name, version, actor, reason, expected_champion, now)
