"""Everything that is asked of one window of traffic."""

from tasks.contracts.monitoring import WindowCheck
from tasks.decisions.accuracy_checks import accuracy_checks
from tasks.decisions.drift_checks import drift_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.service_checks import service_checks
from tasks.decisions.window import Rows, Service, Window


def judge_window(
    window: Window, content: Rows | None, labelled: Rows | None, service: Service | None, policy: MonitoringPolicy
) -> tuple[WindowCheck, ...]:
    """Answer all checks; without a reference its checks are INCONCLUSIVE, for want of rows to compare with.

    Args:
        window: what was seen.
        content: normal inputs and answers.
        labelled: normal answers of which it is known whether they were right; often the same rows.
        service: normal latency and errors.
        policy: limits and error rates.
    """
    nothing = Rows(task=window.rows.task)
    return (
        *drift_checks(window.rows, content or nothing, policy),
        *accuracy_checks(window.rows, window.labels, labelled or nothing, policy),
        *service_checks(window.service, service or Service(), policy),
    )
