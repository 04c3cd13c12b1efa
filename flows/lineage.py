"""Where a run's outcome comes from: data, plan, code and the digest of every stage."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from flows.outcome import Judged
from flows.plan import CompressionPlan
from tasks.contracts.data import DatasetRef
from tasks.contracts.retraining import Retraining
from tasks.runtime.source import source_digest


def lineage_of(
    plan: CompressionPlan, data: DatasetRef, judged: Sequence[Judged], retraining: Retraining | None = None
) -> dict[str, str]:
    """Return names and values that lead from a registered version back to all that it was made from."""
    lineage = {
        "stillhouse.version": version("stillhouse"),
        "stillhouse.code": source_digest(["flows.compression"]),
        "stillhouse.plan": plan.value_digest(),
        "stillhouse.plan_name": plan.name,
        "stillhouse.data": data.digest,
        "stillhouse.data_revision": data.revision,
        "stillhouse.seed": str(plan.seed),
    }
    lineage |= retraining.lineage if retraining else {}
    commit = _commit()
    if commit:
        lineage["stillhouse.commit"] = commit
    for one in judged:
        stages = " > ".join(f"{stage.made.kind}:{stage.made.model.digest}" for stage in one.candidate.stages)
        lineage[f"stillhouse.stages.{one.candidate.name}"] = stages
    return lineage


def _commit() -> str | None:
    """Return the checkout's commit, with `-dirty` if it has changes; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
