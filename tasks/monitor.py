"""Judge the last window of a model's traffic."""

from datetime import datetime

from tasks.contracts.monitoring import MonitoringRecord
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.monitoring import monitor as monitor_window


@effect_task
def monitor(model_name: str, window_minutes: float, policy: MonitoringPolicy, now: datetime) -> MonitoringRecord:
    """Compare the window with what is normal, count it, and send what became an alarm."""
    return monitor_window(connect(), model_name, window_minutes, policy, now)
