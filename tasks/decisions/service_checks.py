"""Is the model served as fast, and as reliably, as at first? And how often does the cache answer?"""

import numpy as np

from tasks.contracts.monitoring import WindowCheck
from tasks.contracts.verdict import Verdict
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.noninferiority import three_valued
from tasks.decisions.window import Service
from tasks.decisions.window_rates import (
    difference_bounds,
    exact_bounds,
    excess_p_value,
    quantile_ratio_bounds,
    samples_for_quantile,
)


def service_checks(window: Service, reference: Service, policy: MonitoringPolicy) -> tuple[WindowCheck, ...]:
    """Answer all questions about how requests were served."""
    return (
        *(_latency_check(window, reference, quantile, policy) for quantile in policy.latency_quantiles),
        _error_check(window, reference, policy),
        _cache_check(window, reference, policy),
    )


def _latency_check(window: Service, reference: Service, quantile: float, policy: MonitoringPolicy) -> WindowCheck:
    """Hold a quantile's ratio against the limit, on requests of the reference's usual number of rows.

    Larger requests take longer: without this, clients that begin to send batches would look like a slow model.
    """
    batch = reference.usual_batch
    seen, known = (one.latencies_ms.get(batch, np.empty(0)) for one in (window, reference))
    fewest = samples_for_quantile(quantile)
    estimate, lower, upper, verdict = None, None, None, Verdict.INCONCLUSIVE
    if min(len(seen), len(known)) >= fewest:
        alpha = policy.alpha / len(policy.latency_quantiles)
        estimate, lower, upper = quantile_ratio_bounds(seen, known, quantile, alpha)
        verdict = three_valued(passed=upper <= policy.max_latency_ratio, failed=lower > policy.max_latency_ratio)
    shown = (
        f"needs {fewest} requests" if estimate is None else f"ratio {estimate:.2f}, between {lower:.2f} and {upper:.2f}"
    )
    return WindowCheck(
        kind="latency",
        name=f"latency_p{100 * quantile:g}",
        verdict=verdict,
        estimate=float(np.quantile(seen, quantile)) if len(seen) else None,
        reference=float(np.quantile(known, quantile)) if len(known) else None,
        bound=lower if verdict is Verdict.FAIL else upper,
        limit=policy.max_latency_ratio,
        p_value=None,
        num_rows=len(seen),
        num_reference=len(known),
        detail=f"{shown}; tolerated {policy.max_latency_ratio:g}; requests of {batch} rows, in milliseconds",
    )


def _error_check(window: Service, reference: Service, policy: MonitoringPolicy) -> WindowCheck:
    """Hold the share of failed requests against the reference's plus the tolerated increase, exactly.

    The reference's share is taken as known: it is one number for all windows, and the increase covers its error.
    """
    usual = reference.errors / reference.requests if reference.requests else 0.0
    limit = usual + policy.max_error_increase
    lower, upper = exact_bounds(window.errors, window.requests, policy.alpha)
    verdict = three_valued(passed=upper <= limit, failed=lower > limit)
    return WindowCheck(
        kind="errors",
        name="errors",
        verdict=verdict if reference.requests else Verdict.INCONCLUSIVE,
        estimate=window.errors / window.requests if window.requests else None,
        reference=usual if reference.requests else None,
        bound=lower if verdict is Verdict.FAIL else upper,
        limit=limit,
        p_value=excess_p_value(window.errors, window.requests, limit),
        num_rows=window.requests,
        num_reference=reference.requests,
        detail=f"{window.errors} of {window.requests} requests failed; tolerated {limit:.2%}",
    )


def _cache_check(window: Service, reference: Service, policy: MonitoringPolicy) -> WindowCheck:
    """Report the cache's hit rate and its change; other traffic is no fault, so this never alarms."""
    counts = window.cached, window.requests, reference.cached, reference.requests
    lower, upper = difference_bounds(*counts, policy.alpha)
    known = bool(window.requests and reference.requests)
    return WindowCheck(
        kind="cache",
        name="cache_hits",
        verdict=Verdict.PASS if known and lower <= 0.0 <= upper else Verdict.INCONCLUSIVE,
        estimate=window.cached / window.requests if window.requests else None,
        reference=reference.cached / reference.requests if reference.requests else None,
        bound=None,
        limit=None,
        p_value=None,
        num_rows=window.requests,
        num_reference=reference.requests,
        detail=f"{window.cached} of {window.requests} requests came from the cache; reported only",
    )
