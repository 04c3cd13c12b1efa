"""The challenger's unseen answers: run beside the champion's requests, off the callers' path."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from infra.gateway.errors import InferenceError
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol import InferRequest, encode_response
from infra.gateway.records import PredictionRecord
from infra.gateway.routing import ServedRoute

logger = logging.getLogger(__name__)


class ShadowRunner:
    """One thread and a bounded queue; what does not fit is dropped and counted, and slows nobody."""

    def __init__(self, metrics: GatewayMetrics, record: Callable[[PredictionRecord], None], *, queue_size: int) -> None:
        self._metrics, self._record = metrics, record
        self._queue: queue.Queue[tuple[ServedRoute, InferRequest] | None] = queue.Queue(queue_size)
        self._thread = threading.Thread(target=self._work, name="gateway-shadow", daemon=True)

    def start(self) -> None:
        """Begin answering."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    def offer(self, served: ServedRoute, request: InferRequest) -> None:
        """Take a copy of a request, or drop it when too many wait."""
        try:
            self._queue.put_nowait((served, request))
        except queue.Full:
            self._metrics.shadows.labels(served.route.model_name, "dropped").inc()

    def _work(self) -> None:
        while (waiting := self._queue.get()) is not None:
            try:
                self._answer(*waiting)
            except Exception:  # a shadow must never end the thread that runs those after it
                logger.exception("a shadow request failed")

    def _answer(self, served: ServedRoute, request: InferRequest) -> None:
        """Do what a caller's answer costs, encoding included, so that the two latencies compare."""
        route, challenger = served.route, served.route.challenger
        assert challenger is not None
        outputs, error = None, ""
        started = time.perf_counter()
        try:
            if served.challenger is None:
                raise InferenceError("not_ready")
            outputs = served.challenger.run(request.inputs)
            encode_response(route.model_name, challenger.version, request, served.champion.outputs, outputs)
        except InferenceError as failure:
            error = failure.reason
        seconds = time.perf_counter() - started
        self._metrics.shadows.labels(route.model_name, "failed" if error else "answered").inc()
        given = None if outputs is None else outputs[0]
        at = time.time_ns() // 1000
        self._record(
            PredictionRecord(
                route,
                served.version,
                request.request_id,
                at,
                "challenger",
                "challenger",
                True,
                seconds * 1e3,
                error,
                request.inputs,
                given,
            )
        )
