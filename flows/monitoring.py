"""Monitoring: a window of traffic -> drift, accuracy, latency, errors -> alarms and events."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from tasks.contracts.monitoring import MonitoringRecord
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.monitor import monitor
from tasks.reporting.window_tables import window_markdown


@flow(name="monitor-model", flow_run_name="{model_name} monitoring", persist_result=False)
def monitor_model(
    model_name: str, window_minutes: float = 60.0, policy: MonitoringPolicy | None = None
) -> MonitoringRecord:
    """Judge the last whole window of the model's traffic; the schedule's unit of work.

    Windows lie on a fixed grid. A schedule that runs more often than that looks at the same window again, which
    changes nothing, and sends events that could not be sent before.

    Args:
        model_name: A model with a champion.
        window_minutes: Length of a window, minutes.
        policy: Limits and error rates; the defaults if None.

    Raises:
        ModelError: the model has no champion.
        InfrastructureError: the store or the log cannot be read for longer than retries last.
    """
    record = monitor(model_name, window_minutes, policy or MonitoringPolicy(), datetime.now(UTC))
    create_markdown_artifact(
        key=f"monitoring-{model_name}", markdown=window_markdown(record), description=f"Traffic of {model_name}"
    )
    return record
