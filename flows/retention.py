"""Retention: the traffic log kept to an age and a size, on a schedule."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, get_run_logger

from tasks.contracts.traffic_retention import Pruned
from tasks.runtime.services import connect
from tasks.stages.pruning_traffic import prune_traffic


@flow(name="prune-traffic", persist_result=False)
def prune_log(keep_days: float | None = None, max_bytes: int | None = None) -> list[Pruned]:
    """Remove hours of every model's log, as `stillhouse traffic prune` does; return what went and what stays.

    Args:
        keep_days: Hours older than so many days go; at least 1. None: age removes nothing.
        max_bytes: The oldest hours go until a model's log is no larger than this. None: size removes nothing.

    Raises:
        UserError: neither is given, or one has no meaning.
        InfrastructureError: a folder cannot be removed.
    """
    done = prune_traffic(connect(), keep_days, datetime.now(UTC), max_bytes=max_bytes)
    for one in done:
        get_run_logger().info(
            "%s: removed %d files, %d bytes; %d bytes stay (%s)",
            one.model_name, one.files, one.size_bytes, one.kept_bytes, one.kept_because,
        )  # fmt: skip
    return done
