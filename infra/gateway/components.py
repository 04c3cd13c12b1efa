"""The parts of a running gateway, and the order in which they start and stop."""

import functools
from typing import TYPE_CHECKING

from infra.gateway.batching import BatchPolicy
from infra.gateway.cache import AnswerCache
from infra.gateway.config import GatewayConfig
from infra.gateway.dispatch import Dispatcher
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.records import FeedbackRecord, PredictionRecord, feedback_table, prediction_table
from infra.gateway.routing import RouteWatcher, RoutingTable
from infra.gateway.sampling import InputRecord, input_table, sampling
from infra.gateway.shadow import ShadowRunner
from infra.gateway.signatures import SignatureVerifier
from infra.gateway.store import GatewayStore
from infra.gateway.telemetry import SegmentWriter
from infra.gateway.watchdog import Watchdog
from tasks.contracts.errors import UserError

if TYPE_CHECKING:
    from infra.gateway.tracing import Endpoint, Tracing


class Components:
    """Everything behind the endpoints."""

    def __init__(self, config: GatewayConfig) -> None:
        self.metrics = GatewayMetrics()
        self.table = RoutingTable(config.retry_interval_s)
        limits = config.model_dump(include={"flush_rows", "flush_interval_s", "buffer_bytes"})
        rows = self.metrics.log_rows
        self._predictions: SegmentWriter[PredictionRecord] = SegmentWriter(
            config.traffic, "predictions", config.replica, prediction_table, rows, **limits
        )
        self.feedback: SegmentWriter[FeedbackRecord] = SegmentWriter(
            config.traffic, "feedback", config.replica, feedback_table, rows, **limits
        )
        self._inputs: SegmentWriter[InputRecord] = SegmentWriter(
            config.traffic,
            "inputs",
            config.replica,
            input_table,
            rows,
            **(limits | {"buffer_bytes": config.input_buffer_bytes}),
        )
        for log, writer in (("predictions", self._predictions), ("feedback", self.feedback), ("inputs", self._inputs)):
            self.metrics.log_waiting_rows.labels(log).set_function(functools.partial(getattr, writer, "waiting_rows"))
        self._watchdog = Watchdog(config.inference_timeout_s)
        self.cache = AnswerCache(config.cache_bytes, self.metrics) if config.cache_bytes else None
        self._shadows = ShadowRunner(self.metrics, self._predictions.append, queue_size=config.shadow_queue)
        self.dispatcher = Dispatcher(
            self.metrics,
            sampling(self._predictions.append, self._inputs.append, config.sample_inputs),
            self._shadows,
            inline_limit_ms=config.inline_limit_ms,
            timeout_s=config.inference_timeout_s,
            num_threads=config.num_threads,
            batch_delay_s=config.batch_delay_ms / 1e3,
            cache=self.cache,
        )
        self._tracing = _tracing(config)
        store = GatewayStore(config.store)
        self._watcher = RouteWatcher(
            store,
            self.table,
            self._watchdog,
            self.metrics,
            replica=config.replica,
            max_batch_rows=config.max_batch_rows,
            batching=BatchPolicy(config.batch_rows, config.batch_min_gain),
            poll_interval_s=config.poll_interval_s,
            retry_interval_s=config.retry_interval_s,
            heartbeat_interval_s=config.heartbeat_interval_s,
            verifier=SignatureVerifier(store, config.verify_keys) if config.verify_keys else None,
        )

    def start(self) -> None:
        """Start the threads, those first that the others use; read the routes in the background."""
        self._predictions.start()
        self.feedback.start()
        self._inputs.start()
        self._watchdog.start()
        self._shadows.start()
        self._watcher.start()

    def stop(self) -> None:
        """Stop in the opposite order; the logs last, so that they hold every answer that was given."""
        self._watcher.stop()
        self._shadows.stop()
        self.dispatcher.close()
        self._watchdog.stop()
        self.feedback.close()
        self._inputs.close()
        self._predictions.close()
        if self._tracing is not None:
            self._tracing.close()

    def traced(self, endpoint: "Endpoint") -> "Endpoint":
        """Return the endpoint with a span around every call, where tracing is on."""
        return endpoint if self._tracing is None else self._tracing.traced(endpoint)


def _tracing(config: GatewayConfig) -> "Tracing | None":
    if not config.tracing:
        return None
    try:
        from infra.gateway.tracing import Tracing
    except ImportError as error:
        raise UserError(f"tracing is on, but {error.name} is not installed; install opentelemetry-sdk") from error
    return Tracing.from_environment(config.replica)
