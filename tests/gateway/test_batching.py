import asyncio
import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from infra.gateway import batching
from infra.gateway.backend import Backend
from infra.gateway.batching import BatchPolicy, MicroBatcher
from infra.gateway.errors import InferenceError
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.watchdog import Watchdog
from tasks.contracts.route import ModelSignature

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))
NEVER = 600.0


class Model:
    """Doubles its rows; it refuses a whole run when a row begins with a negative number, and remembers its runs."""

    digest = "d" * 64

    def __init__(self, batch_rows=4):
        self.batch_rows = batch_rows
        self.runs = []

    async def run(self, backend, inputs, num_requests):
        assert backend is self
        self.runs.append((len(inputs), num_requests))
        await asyncio.sleep(0)
        if (inputs[:, 0] < 0).any():
            raise InferenceError("not_finite")
        return [inputs * 2, inputs[:, :1]]


class Gated(Model):
    """Its first run ends when it is told to."""

    def __init__(self, batch_rows=4):
        super().__init__(batch_rows)
        self.started, self.go_on = asyncio.Event(), asyncio.Event()

    async def run(self, backend, inputs, num_requests):
        self.started.set()
        await self.go_on.wait()
        return await super().run(backend, inputs, num_requests)


def rows(*numbers):
    return np.array([[number, 1, 2, 3] for number in numbers], np.float32)


def batcher_of(model, delay_s=NEVER):
    metrics = GatewayMetrics()
    return MicroBatcher(model.run, metrics, max_delay_s=delay_s), metrics


async def until_waiting(tasks):
    """Let the tasks come as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_run_joins_requests_as_soon_as_the_batch_is_full():
    model = Model()
    batcher, metrics = batcher_of(model)
    answers = await asyncio.gather(*(batcher.run(model, rows(number)) for number in range(4)))
    assert model.runs == [(4, 4)]
    for number, (doubled, first) in enumerate(answers):
        np.testing.assert_array_equal(doubled, rows(number) * 2)
        np.testing.assert_array_equal(first, [[number]])
    assert metrics.registry.get_sample_value("stillhouse_gateway_batched_requests_total") == 4


async def test_run_starts_what_there_is_when_the_first_has_waited_long_enough():
    model = Model()
    batcher, _ = batcher_of(model, delay_s=0.05)
    started = time.monotonic()
    await asyncio.gather(*(batcher.run(model, rows(number)) for number in range(2)))
    assert model.runs == [(2, 2)]
    assert time.monotonic() - started >= 0.045


async def test_run_gives_each_request_its_own_rows_when_sizes_differ():
    rng = np.random.default_rng(0)
    model = Model(batch_rows=8)
    batcher, _ = batcher_of(model, delay_s=0.001)
    inputs = [rng.random((rng.integers(1, 8), 4)).astype(np.float32) for _ in range(200)]
    answers = await asyncio.gather(*(batcher.run(model, given) for given in inputs))
    for given, (doubled, first) in zip(inputs, answers, strict=True):
        np.testing.assert_array_equal(doubled, given * 2)
        np.testing.assert_array_equal(first, given[:, :1])
    assert max(num_rows for num_rows, _ in model.runs) <= 8
    assert sum(num_requests for _, num_requests in model.runs) == 200
    assert len(model.runs) < 150


async def test_run_joins_what_arrives_while_another_run_is_on_and_has_one_at_a_time():
    model = Gated(batch_rows=2)
    batcher, _ = batcher_of(model)
    tasks = [asyncio.create_task(batcher.run(model, rows(number))) for number in range(5)]
    await model.started.wait()
    await until_waiting(tasks)
    assert model.runs == []
    model.go_on.set()
    await asyncio.gather(*tasks)
    assert model.runs == [(2, 2), (2, 2), (1, 1)]  # the last has waited for a run, and need not wait for others


async def test_a_bad_request_fails_alone():
    model = Model()
    batcher, metrics = batcher_of(model)
    given = [rows(1), rows(-1), rows(2), rows(3)]
    answers = await asyncio.gather(*(batcher.run(model, inputs) for inputs in given), return_exceptions=True)
    assert isinstance(answers[1], InferenceError)
    assert answers[1].reason == "not_finite"
    for number in (0, 2, 3):
        np.testing.assert_array_equal(answers[number][0], given[number] * 2)
    assert model.runs == [(4, 4)] + [(1, 1)] * 4
    assert metrics.registry.get_sample_value("stillhouse_gateway_batches_total", {"outcome": "divided"}) == 1


async def test_an_unforeseen_error_reaches_everyone_and_ends_nothing():
    class Broken(Model):
        async def run(self, backend, inputs, num_requests):
            if not self.runs:
                self.runs.append(1)
                raise ZeroDivisionError
            return await super().run(backend, inputs, num_requests)

    model = Broken(batch_rows=2)
    batcher, _ = batcher_of(model, delay_s=0.001)
    answers = await asyncio.gather(*(batcher.run(model, rows(n)) for n in range(2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 2
    np.testing.assert_array_equal((await batcher.run(model, rows(7)))[0], rows(7) * 2)


async def test_callers_who_leave_are_not_run_and_hold_up_nobody():
    model = Gated(batch_rows=2)
    batcher, _ = batcher_of(model)
    tasks = [asyncio.create_task(batcher.run(model, rows(number))) for number in range(5)]
    await model.started.wait()
    await until_waiting(tasks)
    tasks[0].cancel()  # in the run
    tasks[2].cancel()  # waiting
    model.go_on.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False, True, False, False]
    np.testing.assert_array_equal(answers[3][0], rows(3) * 2)
    assert model.runs == [(2, 2), (2, 2)]


async def test_close_tells_those_who_wait():
    model = Model()
    batcher, _ = batcher_of(model)
    tasks = await until_waiting([asyncio.create_task(batcher.run(model, rows(number))) for number in range(2)])
    batcher.close()
    answers = await asyncio.gather(*tasks, batcher.run(model, rows(9)), return_exceptions=True)
    assert [answer.reason for answer in answers] == ["stopping"] * 3
    assert model.runs == []


async def test_a_model_that_is_no_longer_served_is_let_go():
    model = Model(batch_rows=1)
    batcher, _ = batcher_of(model)
    await batcher.run(model, rows(1))
    batcher._run = None  # the fake's own method
    gone = weakref.ref(model)
    del model
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


class Timed:
    """A model of a known cost: so much for a run, so much for a row; and of known outputs."""

    digest = "d" * 64

    def __init__(self, monkeypatch, per_run, per_row, answer=lambda rows: rows * 2):
        self.now, self.per_run, self.per_row, self.answer = 0.0, per_run, per_row, answer
        monkeypatch.setattr(batching.time, "perf_counter", lambda: self.now)

    def try_run(self, inputs):
        self.now += self.per_run + self.per_row * len(inputs)
        return [self.answer(inputs)]


@pytest.mark.parametrize(("per_run", "per_row", "joined"), [(1.0, 1.0, True), (0.4, 1.0, False), (0.0, 1.0, False)])
def test_rows_for_joins_a_model_only_when_it_gains_enough(monkeypatch, per_run, per_row, joined):
    """By hand: 8 rows one by one cost 8 (run + row), together run + 8 row; 16/9 = 1.78 and 11.2/8.4 = 1.33."""
    model = Timed(monkeypatch, per_run, per_row)
    assert BatchPolicy(8, 1.5).rows_for(model, SIGNATURE) == (8 if joined else 1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows / np.abs(rows).max(),
        lambda rows: rows.sum(axis=0, keepdims=True).repeat(len(rows), axis=0),
        lambda rows: rows[:1],
    ],
    ids=["scale of the batch", "sum of the batch", "one output for all"],
)
def test_rows_for_joins_no_model_whose_rows_influence_each_other(monkeypatch, answer):
    assert BatchPolicy(8, 1.5).rows_for(Timed(monkeypatch, 1.0, 0.0, answer), SIGNATURE) == 1


def test_rows_for_does_not_run_a_model_when_batching_is_off():
    assert BatchPolicy().rows_for(None, SIGNATURE) == 1


def load(model, watchdog):
    return Backend("d" * 64, model, SIGNATURE, watchdog)


@pytest.fixture
def watchdog():
    made = Watchdog(timeout_s=2.0)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize(("model", "joined"), [("linear", 8), ("dynamic", 1), ("raising", 1)])
def test_rows_for_judges_real_models(models, watchdog, model, joined):
    """A tiny product is all overhead, so it gains; dynamic quantization makes rows depend on each other."""
    assert BatchPolicy(8, 1.0).rows_for(load(getattr(models, model)(), watchdog), SIGNATURE) == joined


async def test_joined_answers_equal_single_ones_within_the_tolerance_when_run_by_onnxruntime(models, watchdog):
    backend = load(models.dividing(), watchdog)
    backend.batch_rows = 16

    async def run(model, inputs, num_requests):
        return model.run(inputs, num_requests)

    inputs = np.random.default_rng(0).normal(size=(16, 1, 4)).astype(np.float32)
    inputs[5, 0, 0] = 0  # infinite
    batcher = MicroBatcher(run, GatewayMetrics(), max_delay_s=NEVER)
    answers = await asyncio.gather(*(batcher.run(backend, row) for row in inputs), return_exceptions=True)
    for number, (row, answer) in enumerate(zip(inputs, answers, strict=True)):
        if number == 5:
            assert answer.reason == "not_finite"
        else:
            np.testing.assert_allclose(answer[0], backend.run(row)[0], rtol=1e-4)
    described = backend.statistics.describe()
    assert described["inference_stats"]["fail"]["count"] == 1
    assert described["inference_stats"]["success"]["count"] == 15 + 15


def test_a_gateway_answers_joined_requests_each_with_its_own(start, site, models):
    gateway = start(batch_rows=4, batch_delay_ms=50, batch_min_gain=1.0)
    site.wait_for(site.route(site.put(models.dividing())))
    inputs = np.random.default_rng(0).normal(size=(60, 1, 4)).astype(np.float32)
    inputs[::10, 0, 0] = 0  # infinite
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(gateway.infer, inputs, map(str, range(60))))
    assert [reply.status_code for reply in replies] == [500 if n % 10 == 0 else 200 for n in range(60)]
    for row, reply in zip(inputs, replies, strict=True):
        if reply.is_success:
            expected = models.expected(row)[0] / row[0, 0]
            np.testing.assert_allclose(reply.json()["outputs"][0]["data"], expected, rtol=1e-4)
    metrics = gateway.http.get("/metrics").text
    assert 'stillhouse_gateway_batches_total{outcome="answered"}' in metrics
    assert 'stillhouse_gateway_batches_total{outcome="divided"}' in metrics
    gateway.stop()
    assert sorted(int(row["request_id"]) for row in site.log() if row["error"]) == list(range(0, 60, 10))


def test_latency_includes_the_waiting_and_a_request_that_waits_is_answered_at_the_end(start, site, models, poll):
    gateway = start(batch_rows=64, batch_delay_ms=400, batch_min_gain=1.0, cache_bytes=10_000)
    site.wait_for(site.route(site.put(models.linear())))
    row = np.ones((1, 4), np.float32)
    waits = 'stillhouse_gateway_cache_misses_total{arm="champion",model="digits"} 1.0'
    with ThreadPoolExecutor(1) as threads:
        reply = threads.submit(gateway.infer, row)
        poll(lambda: waits in gateway.http.get("/metrics").text)
        gateway.stop()
    assert reply.result().status_code == 200
    (logged,) = site.log()
    assert logged["latency_ms"] >= 390
