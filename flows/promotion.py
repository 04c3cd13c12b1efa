"""Promotion without a rollout: from a gate report that passed to the registry, exactly once."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow

from tasks.contracts.verdict import LedgerEntry
from tasks.promote import promote


@flow(name="promote-model", flow_run_name="{model_name} {version}", persist_result=False)
def promote_model(
    model_name: str, version: int, gate_report: str, expected_champion: str | None, reason: str
) -> LedgerEntry:
    """Make a gated version champion at once; a rollout is the gentler way (`flows.rollout`).

    Args:
        model_name: Registered model.
        version: The version that was gated.
        gate_report: Digest of its gate report.
        expected_champion: Digest of the champion that the decision was made against; None if there was none.
        reason: Why, for the ledger's reader.

    Raises:
        GateError: the report did not pass, or is not about this version.
        StaleChampionError: another champion came meanwhile.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return promote(model_name, version, gate_report, expected_champion, "promote-model", reason, now)
