"""What Prometheus is told."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tasks.contracts.route import ArmName

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LatencyCollector(Collector):
    """Latency histogram and row counter of each arm.

    prometheus_client's own take 9 µs of every request, for locks and label look-ups that are not
    needed where only the event loop writes and reads; this takes one.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, ArmName], _Tally] = {}

    def observe(self, model_name: str, arm: ArmName, seconds: float, num_rows: int) -> None:
        """Count one answered request."""
        tally = self._tallies.get((model_name, arm))
        if tally is None:
            tally = self._tallies[model_name, arm] = _Tally()
        tally.counts[bisect_left(_SECONDS, seconds)] += 1
        tally.seconds += seconds
        tally.rows += num_rows

    def collect(self) -> Iterator[Metric]:
        """Give Prometheus what was counted."""
        latency = HistogramMetricFamily(
            "stillhouse_gateway_inference_seconds",
            "From parsed request to encoded answer, by the arm that the request was assigned to.",
            labels=["model", "arm"],
        )
        rows = CounterMetricFamily(
            "stillhouse_gateway_rows", "Rows answered by a model, by assigned arm.", labels=["model", "arm"]
        )
        for labels, tally in self._tallies.items():
            bounds = [*map(str, _SECONDS), "+Inf"]
            latency.add_metric(list(labels), list(zip(bounds, accumulate(tally.counts), strict=True)), tally.seconds)
            rows.add_metric(list(labels), tally.rows)
        yield latency
        yield rows


class ArmCounter(Collector):
    """A counter by model and arm; written by the event loop alone, like the latencies and for the same reason."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self._counts: dict[tuple[str, ArmName], int] = {}

    def count(self, model_name: str, arm: ArmName) -> None:
        """Count one request."""
        key = model_name, arm
        self._counts[key] = self._counts.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Give Prometheus what was counted."""
        counts = CounterMetricFamily(self._name, self._documentation, labels=["model", "arm"])
        for labels, count in list(self._counts.items()):
            counts.add_metric(list(labels), count)
        yield counts


class _Tally:
    """What one arm of one model has answered."""

    __slots__ = ("counts", "rows", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.rows = 0
        self.seconds = 0.0


class GatewayMetrics:
    """All series of one gateway, in a registry of its own. Names begin with `stillhouse_gateway_`."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        ProcessCollector(registry=registry)
        self.latency = LatencyCollector()
        registry.register(self.latency)
        self.fallbacks = Counter(
            "stillhouse_gateway_fallbacks",
            "Requests of the challenger that the champion answered, by reason.",
            ["model", "reason"],
            registry=registry,
        )
        self.failures = Counter(
            "stillhouse_gateway_failures",
            "Requests that no model answered, by the champion's reason.",
            ["model", "reason"],
            registry=registry,
        )
        self.pinned = Counter(
            "stillhouse_gateway_pinned",
            "Requests that named the version that they wanted, and so did not meet the split.",
            ["model", "version"],
            registry=registry,
        )
        self.refused = Counter(
            "stillhouse_gateway_refused", "Requests refused, by HTTP status.", ["status"], registry=registry
        )
        self.feedback = Counter("stillhouse_gateway_feedback", "Labels received.", ["model"], registry=registry)
        self.shadows = Counter(
            "stillhouse_gateway_shadows",
            "Shadow requests by outcome: answered, failed, or dropped because the queue was full.",
            ["model", "outcome"],
            registry=registry,
        )
        self.cache_hits = ArmCounter(
            "stillhouse_gateway_cache_hits",
            "Requests answered from the cache, by the arm that the request was assigned to. No model ran, and so they "
            "are not in the latency histogram.",
        )
        registry.register(self.cache_hits)
        self.cache_misses = ArmCounter(
            "stillhouse_gateway_cache_misses",
            "Requests that were looked for in the cache and had to be run, by assigned arm.",
        )
        registry.register(self.cache_misses)
        self.cache_evictions = Counter(
            "stillhouse_gateway_cache_evictions", "Cached answers dropped to make room.", registry=registry
        )
        self.cache_bytes = Gauge(
            "stillhouse_gateway_cache_bytes", "Memory that the cached answers hold.", registry=registry
        )
        self.batches = Counter(
            "stillhouse_gateway_batches",
            "Runs that several requests shared, by outcome: answered, or divided because the joint run failed.",
            ["outcome"],
            registry=registry,
        )
        self.batched_requests = Counter(
            "stillhouse_gateway_batched_requests", "Requests that a shared run answered.", registry=registry
        )
        self.log_rows = Counter(
            "stillhouse_gateway_log_rows",
            "Log rows by outcome: written or lost.",
            ["log", "outcome"],
            registry=registry,
        )
        self.log_waiting_rows = Gauge(
            "stillhouse_gateway_log_waiting_rows",
            "Log rows that wait in memory to be written: what is lost if the process is killed now.",
            ["log"],
            registry=registry,
        )
        self.route_version = Gauge(
            "stillhouse_gateway_route_version", "Version of the route that is served.", ["model"], registry=registry
        )
        self.arm_ready = Gauge(
            "stillhouse_gateway_arm_ready", "1 when the arm's model is loaded.", ["model", "arm"], registry=registry
        )
        for log in ("predictions", "feedback", "inputs"):
            for outcome in ("written", "lost"):
                self.log_rows.labels(log, outcome)  # a series that is absent cannot be watched for growth
