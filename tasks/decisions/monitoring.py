"""Everything that is asked of one window of traffic."""

from tasks.contracts.monitoring import WindowCheck
from tasks.decisions.accuracy_checks import accuracy_checks
from tasks.decisions.drift_checks import drift_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.service_checks import service_checks
from tasks.decisions.window import Rows, Service, Window


def judge_window(
    window: Window, content: Rows | None, service: Service | None, policy: MonitoringPolicy
) -> tuple[WindowCheck, ...]:
    """Answer all checks; without a reference its checks are INCONCLUSIVE, for want of rows to compare with.

    Args:
        window: what was seen.
        content: normal inputs and answers.
        service: normal latency and errors.
        policy: limits and error rates.
    """
    known = Rows(task=window.rows.task) if content is None else content
    return (
        *drift_checks(window.rows, known, policy),
        *accuracy_checks(window.rows, window.labels, known, policy),
        *service_checks(window.service, service or Service(), policy),
    )
