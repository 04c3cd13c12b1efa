"""Entry points of deployments, whose parameters are plain values from `prefect.yaml`.

At most one run at a time makes the next version of a model: of these flows, and of `retrain_model`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.compression import compress_model
from flows.plan import CompressionPlan, load_plan, parse_plan
from flows.search import found_plan, search_plan
from tasks.runtime.services import connect
from tasks.stages.budget import spend
from tasks.stages.single_flight import single_flight


@flow(name="compress-plan", flow_run_name="{plan}", persist_result=False)
def compress_plan(plan: str, overrides: Sequence[str] = ()) -> str | None:
    """Run the plan in the file `plan`; return the name of the chosen candidate.

    Where another run makes the next version of the model, it waits for its turn.

    Args:
        plan: File of the plan, relative to STILLHOUSE_PROJECT.
        overrides: `key.path=value`, as `stillhouse run --set`.

    Raises:
        PlanError: the file is missing or not a valid plan.
    """
    loaded = _load(plan, overrides)
    with single_flight(connect(), loaded.registered_name, wait=True):
        return compress_model(loaded).record.chosen


@flow(name="recompress-plan", flow_run_name="{plan} after an alarm", persist_result=False)
def recompress_plan(plan: str, reason: str, max_per_week: int = 2) -> str | None:
    """As `compress_plan`, started by an alarm, and therefore within a budget.

    What did not change since the last run comes from the stage cache; latency is measured anew.

    Args:
        plan: File of the plan, relative to STILLHOUSE_PROJECT.
        reason: What the alarm said.
        max_per_week: Runs allowed in any seven days.

    Raises:
        ModelBusyError: another run makes the next version of the model; this one did not count.
        UserError: the budget is spent, or see `compress_plan`.
    """
    loaded = _load(plan)
    name = re.sub(r"[^a-z0-9]+", "-", plan.lower()).strip("-")
    with single_flight(connect(), loaded.registered_name):
        spend(connect().documents, f"recompress/{name}", str(flow_run.id), max_per_week, datetime.now(UTC))
        return compress_model(loaded).record.chosen


@flow(name="search-and-compress", flow_run_name="{plan} search", persist_result=False)
def search_and_compress(plan: str, overrides: Sequence[str] = ()) -> str | None:
    """Search the plan in the file `plan`, then have the gate judge what was found, and register the best of it.

    The search takes long and makes no version, so that retrainings go on meanwhile; only the judging waits for its turn
    where another run makes the next version of the model.

    Args:
        plan: File of a plan with a `search`, relative to STILLHOUSE_PROJECT.
        overrides: `key.path=value`, as `stillhouse search --set`.

    Returns:
        The name of the chosen candidate; None if no chain keeps the plan's limits, or none passed the gate.

    Raises:
        PlanError: the file is missing, not a valid plan, or has no `search`.
    """
    loaded = _load(plan, overrides)
    found = found_plan(loaded.model_dump(mode="json"), search_plan(loaded))
    if found is None:
        return None
    with single_flight(connect(), loaded.registered_name, wait=True):
        return compress_model(parse_plan(found, f"{plan} as found")).record.chosen


def _load(plan: str, overrides: Sequence[str] = ()) -> CompressionPlan:
    path = Path(plan)
    return load_plan(path if path.is_absolute() else connect().settings.project / path, tuple(overrides))
