"""Entry points of deployments, whose parameters are plain values from `prefect.yaml`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.compression import compress_model
from flows.plan import load_plan
from tasks.runtime.services import connect


@flow(name="compress-plan", flow_run_name="{plan}", persist_result=False)
def compress_plan(plan: str) -> str | None:
    """Run the plan in the file `plan` (relative to STILLHOUSE_PROJECT); return the name of the chosen candidate.

    Raises:
        PlanError: the file is missing or not a valid plan.
    """
    path = Path(plan)
    dossier = compress_model(load_plan(path if path.is_absolute() else connect().settings.project / path))
    return dossier.record.chosen
