"""One request's way through the arms: assign, run, fall back, record."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from infra.gateway.backend import Backend
from infra.gateway.batching import MicroBatcher
from infra.gateway.cache import AnswerCache, KnownBody, fingerprint_of
from infra.gateway.errors import InferenceError
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol import Encoded, InferRequest, encode_response
from infra.gateway.records import PredictionRecord
from infra.gateway.routing import ServedRoute
from infra.gateway.shadow import ShadowRunner
from tasks.contracts.route import Arm, ArmName, assigned_arm

_GRACE_S = 0.25


class Answer(NamedTuple):
    """What the caller gets."""

    encoded: Encoded | None
    """None when no model answered."""
    arm: ArmName
    served_by: ArmName
    served: Arm
    cached: bool | None = None
    """Whether it was given before; None without a cache."""


class Dispatcher:
    """Runs requests on the arms that they fall to, with the champion as the fallback."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        record: Callable[[PredictionRecord], None],
        shadows: ShadowRunner,
        *,
        inline_limit_ms: float,
        timeout_s: float,
        num_threads: int,
        batch_delay_s: float = 0.0,
        cache: AnswerCache | None = None,
    ) -> None:
        self._metrics, self._record, self._shadows = metrics, record, shadows
        self._inline_limit_ms, self._timeout_s = inline_limit_ms, timeout_s
        self._cache = cache
        self._batcher = MicroBatcher(self._run, metrics, max_delay_s=batch_delay_s)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="gateway-inference")

    def close(self) -> None:
        """Let running threads end."""
        self._batcher.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def infer(self, served: ServedRoute, request: InferRequest, key: str) -> Answer:
        """Answer one request and record it."""
        started = time.perf_counter()
        route = served.route
        arm = assigned_arm(route, key)
        fingerprint = outputs = None
        if self._cache is not None:
            fingerprint = fingerprint_of(request.inputs)
            outputs = self._cache.recall(route, arm, fingerprint)
        cached = outputs is not None
        served_by, error = arm, ""
        if outputs is None:
            outputs, served_by, error = await self._answer_of(served, arm, request.inputs, fingerprint)
        answering = route.challenger if served_by == "challenger" else route.champion
        assert answering is not None
        encoded = None
        if outputs is not None:
            encoded = encode_response(route.model_name, answering.version, request, served.champion.outputs, outputs)
        seconds = time.perf_counter() - started
        given = None if outputs is None else outputs[0]
        at = time.time_ns() // 1000
        self._record(
            PredictionRecord(
                route,
                served.version,
                request.request_id,
                at,
                arm,
                served_by,
                False,
                seconds * 1e3,
                error,
                request.inputs,
                given,
                cached,
            )
        )
        if not cached:  # a hit tells nothing of the arms: neither of their latency nor of how they compare
            self._metrics.latency.observe(route.model_name, arm, seconds, len(request.inputs))
            if route.shadow and arm == "champion":
                self._shadows.offer(served, request)
        return Answer(encoded, arm, served_by, answering, None if fingerprint is None else cached)

    def recall(
        self, served: ServedRoute, known: KnownBody, request: InferRequest, key: str, inputs: np.ndarray | None
    ) -> Answer | None:
        """Answer a body that is known from the cache and record it, or return None without a trace of it.

        Args:
            served: the model's present route.
            known: what the body asks for.
            request: the same under this request's id.
            key: by which the request falls to an arm.
            inputs: to be recorded with it; None where their sketch is enough.
        """
        assert self._cache is not None
        started = time.perf_counter()
        route = served.route
        arm = assigned_arm(route, key)
        outputs = self._cache.recall(route, arm, known.fingerprint, is_last=False)
        if outputs is None:
            return None
        answering = route.challenger if arm == "challenger" else route.champion
        assert answering is not None
        encoded = encode_response(route.model_name, answering.version, request, served.champion.outputs, outputs)
        self._record(
            PredictionRecord(
                route,
                served.version,
                request.request_id,
                time.time_ns() // 1000,
                arm,
                arm,
                False,
                (time.perf_counter() - started) * 1e3,
                "",
                inputs,
                outputs[0],
                True,
                known.sketch,
            )
        )
        return Answer(encoded, arm, arm, answering, cached=True)

    async def infer_version(self, served: ServedRoute, request: InferRequest, version: int) -> Answer:
        """Answer a request that names the version that it wants.

        It has not met the split, so it is no evidence about it: no record, no shadow, no share in the arms'
        latencies; and there is no fallback, since another version was not asked for. Nor is the cache asked: whoever
        names a version may be testing it.

        Raises:
            RequestError: 404, that version is not served.
        """
        arm, backend = served.of_version(version)
        self._metrics.pinned.labels(served.route.model_name, str(version)).inc()
        answering = served.route.challenger if arm == "challenger" else served.route.champion
        assert answering is not None
        encoded = None
        try:
            outputs = await self._answer(backend, request.inputs)
            encoded = encode_response(served.route.model_name, version, request, served.champion.outputs, outputs)
        except InferenceError as failure:
            self._metrics.failures.labels(served.route.model_name, failure.reason).inc()
        return Answer(encoded, arm, arm, answering)

    async def _answer_of(
        self, served: ServedRoute, arm: ArmName, inputs: np.ndarray, fingerprint: bytes | None
    ) -> tuple[list[np.ndarray] | None, ArmName, str]:
        """Return the outputs of an arm, or of the champion in its place; which of them it was; why the arm failed."""
        model_name, error = served.route.model_name, ""
        if arm == "challenger":
            try:
                return await self._answer(served.challenger, inputs, fingerprint), arm, ""
            except InferenceError as failure:
                error = failure.reason
                self._metrics.fallbacks.labels(model_name, error).inc()
        try:
            return await self._answer(served.champion, inputs, fingerprint), "champion", error
        except InferenceError as failure:
            self._metrics.failures.labels(model_name, failure.reason).inc()
            return None, "champion", f"{error}; champion: {failure.reason}" if error else failure.reason

    async def _answer(
        self, backend: Backend | None, inputs: np.ndarray, fingerprint: bytes | None = None
    ) -> list[np.ndarray]:
        """Run a model if it is loaded, and keep what it gives; a failure raises, and so is never kept."""
        if backend is None:
            raise InferenceError("not_ready")
        run = self._batcher.run if len(inputs) < backend.batch_rows else self._run
        outputs = await run(backend, inputs)
        if self._cache is not None and fingerprint is not None:
            self._cache.put(backend.digest, fingerprint, outputs)
        return outputs

    async def _run(self, backend: Backend, inputs: np.ndarray, num_requests: int = 1) -> list[np.ndarray]:
        """Run where it is cheapest: here, or in a thread if that would hold up other requests."""
        if backend.expected_ms(len(inputs)) <= self._inline_limit_ms:
            return backend.run(inputs, num_requests)
        future = asyncio.get_running_loop().run_in_executor(self._threads, backend.run, inputs, num_requests)
        # The watchdog ends the run itself; the grace covers one node that cannot be interrupted.
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(future, self._timeout_s + _GRACE_S)
        raise InferenceError("timeout")
