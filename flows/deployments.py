"""Entry points of deployments, whose parameters are plain values from `prefect.yaml`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.compression import compress_model
from flows.plan import load_plan
from tasks.runtime.services import connect
from tasks.stages.budget import spend


@flow(name="compress-plan", flow_run_name="{plan}", persist_result=False)
def compress_plan(plan: str) -> str | None:
    """Run the plan in the file `plan` (relative to STILLHOUSE_PROJECT); return the name of the chosen candidate.

    Raises:
        PlanError: the file is missing or not a valid plan.
    """
    path = Path(plan)
    dossier = compress_model(load_plan(path if path.is_absolute() else connect().settings.project / path))
    return dossier.record.chosen


@flow(name="recompress-plan", flow_run_name="{plan} after an alarm", persist_result=False)
def recompress_plan(plan: str, reason: str, max_per_week: int = 2) -> str | None:
    """As `compress_plan`, started by an alarm, and therefore within a budget.

    What did not change since the last run comes from the stage cache; latency is measured anew.

    Args:
        plan: File of the plan, relative to STILLHOUSE_PROJECT.
        reason: What the alarm said.
        max_per_week: Runs allowed in any seven days.

    Raises:
        UserError: the budget is spent, or see `compress_plan`.
    """
    name = re.sub(r"[^a-z0-9]+", "-", plan.lower()).strip("-")
    spend(connect().documents, f"recompress/{name}", str(flow_run.id), max_per_week, datetime.now(UTC))
    return compress_plan(plan)
