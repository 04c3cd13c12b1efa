"""Sends real rows to a gateway as many clients would, and counts everything that comes back."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np
from pydantic import SecretStr

from tasks.adapters.gateway_client import GatewayClient
from tasks.adapters.replay_source import RowSource, Turns
from tasks.adapters.replay_worker import ArmTally, Tally, Worker
from tasks.contracts.data import Task
from tasks.contracts.value import Value


class ArmReplay(Value):
    """What the requests of one arm came to."""

    requests: int
    fallbacks: int
    """Answered by the champion because this arm failed."""
    rows: int
    accuracy: float | None
    """Share of the rows that were right; None for regression."""
    rmse: float | None
    """Root mean squared error; None for classification."""


class ReplayResult(Value):
    """What a replay came to, as the client saw it."""

    sent: int
    failed: int
    """Requests without a usable answer; `failures` has the reasons."""
    wrong_shape: int
    """Answers with another shape than one output row for each input row; among `failed`."""
    failures: dict[str, int]
    feedback_sent: int
    feedback_failed: int
    arms: dict[str, ArmReplay]
    """By the arm that the gateway assigned."""
    latency_ms: dict[str, float]
    """p50, p95 and p99 of the answered requests; empty when there were none."""
    seconds: float
    requests_per_s: float


def replay(
    x: np.ndarray,
    y: np.ndarray,
    url: str,
    model: str,
    *,
    requests: int | None,
    rows_per_request: int = 1,
    concurrency: int = 4,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    feedback_share: float = 1.0,
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    token: SecretStr | None = None,
) -> ReplayResult:
    """Send shuffled rows, again and again, and their labels as feedback.

    Args:
        x: Rows [N, *input_shape], as the model takes them.
        y: Labels [N]: integers for classification, else regression.
        url: The gateway's address.
        model: Name of the served model.
        requests: How many to send; None goes on until `stop` says so.
        rows_per_request: Rows in one request.
        concurrency: Connections that are used at once.
        seed: Determines the order of the rows and which requests get feedback.
        stop: Asked before every request.
        feedback_share: Share of the requests whose labels are sent, from 0 to 1.
        rate: Requests a second over all connections; as fast as they are answered if None.
        on_progress: Told 1 after every request, from several threads.
        token: For a gateway that asks for one; it needs the roles infer and feedback, or admin.

    Raises:
        DataError: the rows do not fit the model, or `x` and `y` each other.
        ModelError: the gateway serves no such model.
        UserError: the gateway asks for a token.
        ServiceUnavailableError: the gateway does not answer at the start. Later failures are counted.
    """
    with GatewayClient(url, token=token) as client:
        metadata = client.metadata(model)
    source = RowSource(x, y, metadata, rows_per_request, seed, feedback_share)
    turns = Turns(requests, rate, stop)
    address = urlsplit(url)
    workers = [Worker(address, model, source, turns, on_progress, token) for _ in range(max(1, concurrency))]
    threads = [threading.Thread(target=worker.run, name=f"replay-{n}") for n, worker in enumerate(workers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # interrupted: let the running requests end
        turns.close()
    return _result([worker.tally for worker in workers], time.perf_counter() - started, source.task)


def _result(tallies: list[Tally], seconds: float, task: Task) -> ReplayResult:
    failures: Counter[str] = sum((tally.failures for tally in tallies), Counter())
    latencies = np.concatenate([np.asarray(tally.latencies_ms) for tally in tallies])
    quantiles = np.quantile(latencies, (0.5, 0.95, 0.99)).tolist() if len(latencies) else []
    sent = sum(tally.sent for tally in tallies)
    names = sorted({name for tally in tallies for name in tally.arms})
    return ReplayResult(
        sent=sent,
        failed=failures.total(),
        wrong_shape=failures["wrong shape"],
        failures=dict(failures),
        feedback_sent=sum(tally.feedback_sent for tally in tallies),
        feedback_failed=sum(tally.feedback_failed for tally in tallies),
        arms={name: _arm([tally.arms[name] for tally in tallies], task) for name in names},
        latency_ms=dict(zip(("p50", "p95", "p99"), quantiles, strict=False)),
        seconds=seconds,
        requests_per_s=sent / seconds,
    )


def _arm(tallies: list[ArmTally], task: Task) -> ArmReplay:
    rows = sum(tally.rows for tally in tallies)
    right = sum(tally.right for tally in tallies)
    squared_error = sum(tally.squared_error for tally in tallies)
    return ArmReplay(
        requests=sum(tally.requests for tally in tallies),
        fallbacks=sum(tally.fallbacks for tally in tallies),
        rows=rows,
        accuracy=right / rows if task == "classification" else None,
        rmse=(squared_error / rows) ** 0.5 if task == "regression" else None,
    )
