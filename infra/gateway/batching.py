"""Micro-batching: requests that wait for the same model share a run, where the model was seen to gain by it."""

import asyncio
import logging
import statistics
import time
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from infra.gateway.backend import Backend
from infra.gateway.errors import InferenceError
from infra.gateway.metrics import GatewayMetrics
from tasks.contracts.route import ModelSignature

_TOLERANCE = 1e-4
"""How far a row's outputs may be from those of its own run, relative to the largest of them. Matrix products of other
sizes add in another order, which costs 1e-6; a model whose rows influence each other is off by far more."""
_MIN_REPEATS, _MAX_REPEATS, _MEASURE_S = 3, 15, 0.5
_SEED = 0

logger = logging.getLogger(__name__)


class BatchPolicy(NamedTuple):
    """Which models' requests are joined, and how many."""

    max_rows: int = 1
    """Rows of a joint run at most; 1 joins nothing."""
    min_gain: float = 1.5
    """Rows per second of a full batch over those of single rows that a model must show when it is loaded."""

    def rows_for(self, backend: Backend, signature: ModelSignature) -> int:
        """Return the rows that may share a run of this model: `max_rows`, or 1 where joining does not pay or differs.

        It takes about half a second and runs the model on made-up rows, so it belongs to loading.
        """
        if self.max_rows < 2:
            return 1
        rows = _made_up_rows(signature, self.max_rows)
        try:
            difference = _largest_difference(backend, rows)
            gain = _gain(backend, rows)
        except Exception:  # onnxruntime's errors share no base but Exception; such a model serves, one by one
            logger.exception("model %s failed on made-up rows; its requests are not joined", backend.digest[:12])
            return 1
        joined = difference <= _TOLERANCE and gain >= self.min_gain
        logger.info(
            "model %s: %d rows at once run %.2f times as fast as one by one and differ by %.1e; requests are %s",
            backend.digest[:12], self.max_rows, gain, difference, "joined" if joined else "not joined",
        )  # fmt: skip
        return self.max_rows if joined else 1


def _made_up_rows(signature: ModelSignature, num_rows: int) -> np.ndarray:
    """Return rows [num_rows, *input_shape] whose ranges differ a hundredfold.

    A model that takes its scale from the whole batch, as dynamic quantization does, shows it on these.
    """
    rng = np.random.default_rng(_SEED)
    shape = (num_rows, *signature.input_shape)
    if signature.input_dtype == "int64":
        return rng.integers(signature.vocab_size or 2, size=shape)
    scales = np.geomspace(0.1, 10.0, num_rows).reshape(-1, *[1] * len(signature.input_shape))
    return (rng.standard_normal(shape) * scales).astype(np.float32)


def _largest_difference(backend: Backend, rows: np.ndarray) -> float:
    """Return the largest difference between a joint run and single ones, relative to the row's largest output."""
    joint = backend.try_run(rows)
    if any(len(output) != len(rows) for output in joint):
        return float("inf")
    largest = 0.0
    for number in range(len(rows)):
        for together, alone in zip(joint, backend.try_run(rows[number : number + 1]), strict=True):
            values, expected = np.asarray(together[number], np.float64), np.asarray(alone[0], np.float64)
            scale = float(np.abs(expected).max(initial=np.finfo(np.float32).tiny))
            largest = float(np.fmax(largest, np.abs(values - expected).max(initial=0.0) / scale))
    return largest


def _gain(backend: Backend, rows: np.ndarray) -> float:
    """Return the seconds of single runs over those of a joint run, the median of turns."""
    ratios: list[float] = []
    deadline = time.monotonic() + _MEASURE_S
    while len(ratios) < _MIN_REPEATS or (len(ratios) < _MAX_REPEATS and time.monotonic() < deadline):
        started = time.perf_counter()
        for number in range(len(rows)):
            backend.try_run(rows[number : number + 1])
        between = time.perf_counter()
        backend.try_run(rows)
        ratios.append((between - started) / (time.perf_counter() - between))
    return statistics.median(ratios)


class _Waiting(NamedTuple):
    """A request that waits for its run."""

    inputs: np.ndarray
    answer: asyncio.Future[list[np.ndarray]]


@dataclass
class _Queue:
    """What waits for one model."""

    waiting: list[_Waiting] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    running: asyncio.Task[None] | None = None


class MicroBatcher:
    """Queues of requests by model; everything here happens in the event loop.

    A run starts when it is full, or when its first request has waited `max_delay_s`, or when the run before it ends:
    one run of a model at a time, so that what arrives meanwhile is joined. If a joint run fails, each of its requests
    is run by itself, since it cannot be told whose fault it was.
    """

    def __init__(
        self,
        run: Callable[[Backend, np.ndarray, int], Coroutine[Any, Any, list[np.ndarray]]],
        metrics: GatewayMetrics,
        *,
        max_delay_s: float,
    ) -> None:
        """`run` takes the model, the rows, and how many requests they are of; it raises InferenceError."""
        self._run, self._metrics, self._max_delay_s = run, metrics, max_delay_s
        self._queues: weakref.WeakKeyDictionary[Backend, _Queue] = weakref.WeakKeyDictionary()
        self._closed = False

    async def run(self, backend: Backend, inputs: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for `inputs`, which others' rows may have shared a run with.

        Raises:
            InferenceError: as `Backend.run` does, for these rows alone; `stopping` when the gateway ends.
        """
        if self._closed:
            raise InferenceError("stopping")
        queue = self._queues.setdefault(backend, _Queue())
        loop = asyncio.get_running_loop()
        waiting = _Waiting(inputs, loop.create_future())
        queue.waiting.append(waiting)
        if queue.running is None:
            if sum(len(other.inputs) for other in queue.waiting) >= backend.batch_rows:
                self._start(backend, queue)
            elif queue.timer is None:
                queue.timer = loop.call_later(self._max_delay_s, self._start, backend, queue)
        return await waiting.answer

    def close(self) -> None:
        """Answer nobody any more; who still waits is told so."""
        self._closed = True
        for queue in self._queues.values():
            if queue.timer:
                queue.timer.cancel()
            for waiting in queue.waiting:
                if not waiting.answer.done():
                    waiting.answer.set_exception(InferenceError("stopping"))
            queue.waiting.clear()

    def _start(self, backend: Backend, queue: _Queue) -> None:
        """Run what waits, up to the rows that fit."""
        if queue.timer:
            queue.timer.cancel()
            queue.timer = None
        taken = _taken(queue, backend.batch_rows)
        if not taken:
            return
        queue.running = asyncio.get_running_loop().create_task(self._answer(backend, taken))
        queue.running.add_done_callback(lambda task: self._end(backend, queue, taken, task))

    def _end(self, backend: Backend, queue: _Queue, taken: list[_Waiting], task: asyncio.Task[None]) -> None:
        """Let nobody wait for ever, and start the next run: those who wait have waited for this one."""
        queue.running = None
        for waiting in taken:
            if not waiting.answer.done():
                error = None if task.cancelled() else task.exception()
                waiting.answer.set_exception(error or InferenceError("stopping"))
        self._start(backend, queue)

    async def _answer(self, backend: Backend, taken: list[_Waiting]) -> None:
        if len(taken) == 1:
            await self._answer_alone(backend, taken[0])
            return
        try:
            outputs = await self._run(backend, np.concatenate([waiting.inputs for waiting in taken]), len(taken))
        except InferenceError:
            self._metrics.batches.labels("divided").inc()
            await asyncio.gather(*(self._answer_alone(backend, waiting) for waiting in taken))
            return
        self._metrics.batches.labels("answered").inc()
        self._metrics.batched_requests.inc(len(taken))
        start = 0
        for waiting in taken:
            end = start + len(waiting.inputs)
            _answer_with(waiting, [output[start:end] for output in outputs])
            start = end

    async def _answer_alone(self, backend: Backend, waiting: _Waiting) -> None:
        try:
            outputs = await self._run(backend, waiting.inputs, 1)
        except InferenceError as error:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
        else:
            _answer_with(waiting, outputs)


def _taken(queue: _Queue, max_rows: int) -> list[_Waiting]:
    """Take the longest waiting off the queue, as many as fit; those whose caller has gone are dropped."""
    queue.waiting = [waiting for waiting in queue.waiting if not waiting.answer.done()]
    count = rows = 0
    for waiting in queue.waiting:
        rows += len(waiting.inputs)
        if rows > max_rows:
            break
        count += 1
    taken, queue.waiting = queue.waiting[:count], queue.waiting[count:]
    return taken


def _answer_with(waiting: _Waiting, outputs: list[np.ndarray]) -> None:
    if not waiting.answer.done():  # its caller may have gone
        waiting.answer.set_result(outputs)
