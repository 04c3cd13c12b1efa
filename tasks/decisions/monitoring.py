"""Everything that is asked of one window of traffic, and what is written down of it."""

import numpy as np

from tasks.contracts.monitoring import WindowCheck, WindowReport
from tasks.contracts.value import Digest
from tasks.decisions.accuracy_checks import accuracy_checks
from tasks.decisions.drift_checks import drift_checks
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.service_checks import service_checks
from tasks.decisions.window import Rows, Service, Window

_SHOWN_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


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


def report_window(
    window: Window,
    checks: tuple[WindowCheck, ...],
    *,
    model_name: str,
    model_digest: Digest,
    version: int,
    since: str,
    until: str,
    content_reference: Digest | None,
    service_reference: Digest | None,
) -> WindowReport:
    """Write down a judged window, with the figures that people look at first.

    Args:
        window: what was seen.
        checks: its answers.
        model_name: whose traffic it is.
        model_digest: of the champion that answered.
        version: of the champion.
        since: start of the window, UTC, ISO 8601.
        until: its end.
        content_reference: digest of the `ContentReference` that it was held against; None if there is none yet.
        service_reference: likewise of the `ServiceReference`.
    """
    labels = window.labels
    return WindowReport(
        model_name=model_name,
        model_digest=model_digest,
        version=version,
        since=since,
        until=until,
        content_reference=content_reference,
        service_reference=service_reference,
        requests=window.service.requests,
        rows=window.num_rows,
        errors=window.service.errors,
        cached=window.service.cached,
        latency_ms=_latencies(window.service),
        labelled_share=labels.labelled / labels.answered if labels.answered else None,
        median_label_delay_s=float(np.median(labels.delays_s)) if len(labels.delays_s) else None,
        checks=checks,
    )


def _latencies(service: Service) -> dict[str, float]:
    if not service.latencies_ms:
        return {}
    values = np.concatenate(list(service.latencies_ms.values()))
    return {name: float(np.quantile(values, quantile)) for name, quantile in _SHOWN_QUANTILES.items()}
