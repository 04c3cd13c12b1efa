from dataclasses import replace

import numpy as np
import pytest

from tasks.contracts.verdict import Verdict
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.service_checks import service_checks
from tasks.decisions.window import Service
from tests.decisions.traffic_model import service

POLICY = MonitoringPolicy()


@pytest.fixture
def generator():
    return np.random.default_rng(2)


def verdicts(window, reference):
    return {check.name: check.verdict for check in service_checks(window, reference, POLICY)}


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, Verdict.PASS), (2.0, Verdict.FAIL), (1.3, Verdict.INCONCLUSIVE)])
def test_latency_is_three_valued(generator, slower, verdict):
    found = verdicts(service(generator, 4000, slower=slower), service(generator, 4000))
    assert [found[f"latency_p{quantile}"] for quantile in (50, 95, 99)] == [verdict] * 3


def test_latency_is_inconclusive_when_a_quantile_has_too_few_requests(generator):
    found = verdicts(service(generator, 150), service(generator, 4000))
    assert found["latency_p99"] is Verdict.INCONCLUSIVE
    assert verdicts(Service(), service(generator))["latency_p50"] is Verdict.INCONCLUSIVE
    assert verdicts(service(generator), Service())["latency_p50"] is Verdict.INCONCLUSIVE


def test_latency_compares_requests_of_one_size(generator):
    reference = service(generator, 2000)
    window = replace(reference, latencies_ms=reference.latencies_ms | {64: 40.0 * reference.latencies_ms[1]})
    assert verdicts(window, reference)["latency_p95"] is Verdict.PASS


@pytest.mark.parametrize(
    ("errors", "requests", "verdict"),
    [
        (0, 2000, Verdict.PASS),
        (100, 2000, Verdict.FAIL),
        (20, 2000, Verdict.INCONCLUSIVE),
        (0, 0, Verdict.INCONCLUSIVE),
    ],
)
def test_errors_are_three_valued(generator, errors, requests, verdict):
    window = service(generator, requests, errors=errors) if requests else Service()
    assert verdicts(window, service(generator, 2000))["errors"] is verdict


def test_errors_are_inconclusive_without_a_reference(generator):
    assert verdicts(service(generator, 2000, errors=500), Service())["errors"] is Verdict.INCONCLUSIVE


def test_the_caches_hit_rate_is_reported_and_never_fails(generator):
    checks = service_checks(service(generator, 1000, cached=600), service(generator, 1000, cached=100), POLICY)
    (cache,) = [check for check in checks if check.kind == "cache"]
    assert (cache.estimate, cache.reference, cache.verdict) == (0.6, 0.1, Verdict.INCONCLUSIVE)


def test_usual_batch_is_the_commonest_size():
    assert Service(latencies_ms={8: np.ones(3), 1: np.ones(2)}).usual_batch == 8
    assert Service().usual_batch == 1
