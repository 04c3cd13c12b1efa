"""What a rollout may conclude from requests of which some are answered from the cache."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from infra.gateway.cache import AnswerCache, fingerprint_of
from infra.gateway.dispatch import Dispatcher
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol import InferRequest, TensorSpec, WantedOutputs
from infra.gateway.routing import ServedRoute
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.decisions.experiment import ArmStats, Observation, StepTraffic, sample_ratio

SIGNATURE = ModelSignature(task="classification", input_shape=(2,), input_dtype="float32", class_names=("a", "b"))


@dataclass(eq=False)
class Model:
    """Gives its input back."""

    digest: str
    outputs = (TensorSpec("y", "FP32", (-1, 2)),)
    batch_rows = 1

    def expected_ms(self, num_rows):
        return 0.0

    def run(self, inputs, num_requests=1):
        return [inputs]


def requests(num_requests, popularity=1.3):
    """Requests whose inputs repeat as words do (Zipf): few are popular, most are rare."""
    kinds = np.random.default_rng(0).zipf(popularity, num_requests).astype(np.float64) % 1e6
    for number, kind in enumerate(kinds):
        rows = np.array([[kind, 1]], np.float32)
        yield InferRequest(f"{number}", rows, WantedOutputs())


@pytest.fixture
def served():
    arms = Arm(digest="1" * 64, version=1), Arm(digest="2" * 64, version=2)
    route = Route(model_name="m", signature=SIGNATURE, champion=arms[0], challenger=arms[1], weight=20.0, salt="s")
    return ServedRoute(route, 1, Model(arms[0].digest), Model(arms[1].digest), None)


def ask(served, cache, metrics, asked):
    records = []
    dispatcher = Dispatcher(
        metrics, records.append, SimpleNamespace(), inline_limit_ms=1.0, timeout_s=1.0, num_threads=1, cache=cache
    )

    async def ask_all():
        for request in asked:
            await dispatcher.infer(served, request, request.request_id)

    asyncio.run(ask_all())
    dispatcher.close()
    return records


def test_what_the_cache_leaves_is_still_divided_as_the_route_says_when_the_champion_is_warm(served):
    """And popular inputs are as frequent in one arm as in the other, or accuracies would not compare."""
    metrics = GatewayMetrics()
    cache, asked = AnswerCache(2**22, metrics), list(requests(4000))
    for request in asked[:2000]:  # before the rollout, the champion answered all
        cache.put(served.route.champion.digest, fingerprint_of(request.inputs), [request.inputs])
    records = ask(served, cache, metrics, asked[2000:])
    counted = [record for record in records if not record.cached]
    assert 0.1 < 1 - len(counted) / len(records) < 0.9
    arms = {
        name: [record.inputs[0, 0] < 10 for record in counted if record.arm == name]
        for name in ("champion", "challenger")
    }
    step = StepTraffic(20.0, *(ArmStats(requests=len(popular)) for popular in arms.values()))
    assert not sample_ratio(Observation((step,)), 0.01).mismatch
    old, new = (np.array(popular) for popular in arms.values())
    assert abs(old.mean() - new.mean()) < 4 * np.sqrt(old.var() / len(old) + new.var() / len(new))
    # what the simpler rule, a hit wherever the arm itself has the answer, would have left
    known = {("champion", request.inputs[0, 0]) for request in asked[:2000]}
    left = {"champion": 0, "challenger": 0}
    for record in records:
        if (record.arm, record.inputs[0, 0]) not in known:
            left[record.arm] += 1
            known.add((record.arm, record.inputs[0, 0]))
    naive = StepTraffic(20.0, *(ArmStats(requests=count) for count in left.values()))
    assert sample_ratio(Observation((naive,)), 0.01).mismatch


def test_hits_are_answered_for_the_assigned_arm_and_are_not_in_its_latencies(served):
    metrics = GatewayMetrics()
    asked = list(requests(1000))
    records = ask(served, AnswerCache(2**22, metrics), metrics, asked)
    for record, request in zip(records, asked, strict=True):
        assert record.arm == record.served_by
        np.testing.assert_array_equal(record.outputs, request.inputs)
    for arm in ("champion", "challenger"):
        labels = {"model": "m", "arm": arm}
        timed = metrics.registry.get_sample_value("stillhouse_gateway_inference_seconds_count", labels)
        assert timed == sum(record.arm == arm and not record.cached for record in records)
        hits = metrics.registry.get_sample_value("stillhouse_gateway_cache_hits_total", labels)
        assert hits == sum(record.arm == arm and record.cached for record in records) > 0
