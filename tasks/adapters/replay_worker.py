"""One connection of a replay: sends its turns, and counts what comes back.

`http.client` instead of httpx: it costs a third as much for a request, so that one core of clients
can load one core of gateway.
"""

import http.client
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult

import numpy as np
import orjson
from pydantic import SecretStr

from tasks.adapters.replay_source import ReplayRequest, RowSource, Turns

_TIMEOUT_S = 30.0
_HEADERS = {"Content-Type": "application/json"}


@dataclass
class ArmTally:
    """Counts of one arm."""

    requests: int = 0
    fallbacks: int = 0
    rows: int = 0
    right: int = 0
    squared_error: float = 0.0


@dataclass
class Tally:
    """Counts of one connection."""

    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    feedback_sent: int = 0
    feedback_failed: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    arms: dict[str, ArmTally] = field(default_factory=lambda: defaultdict(ArmTally))


class Worker:
    """One connection and what it saw."""

    def __init__(
        self,
        address: SplitResult,
        model: str,
        source: RowSource,
        turns: Turns,
        on_progress: Callable[[int], None] | None,
        token: SecretStr | None = None,
    ) -> None:
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT_S)
        self._path = f"{address.path.rstrip('/')}/v2/models/{model}"
        self._source, self._turns, self._on_progress = source, turns, on_progress
        self._headers = dict(_HEADERS)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        self.tally = Tally()

    def run(self) -> None:
        """Send until there are no more turns."""
        for number in self._turns:
            self._send(self._source.request(number))
            if self._on_progress:
                self._on_progress(1)
        self._connection.close()

    def _send(self, request: ReplayRequest) -> None:
        self.tally.sent += 1
        started = time.perf_counter()
        try:
            headers, body = self._post("infer", request.body)
            output = orjson.loads(body)["outputs"][0]
            values = np.asarray(output["data"], dtype=np.float64).reshape(output["shape"])
        except _FAILURES as failure:
            self.tally.failures[_reason(failure)] += 1
            return
        self.tally.latencies_ms.append((time.perf_counter() - started) * 1e3)
        if len(values) != len(request.labels):
            self.tally.failures["wrong shape"] += 1
            return
        self._judge(request, values, headers)
        if request.wants_feedback:
            self._feed_back(request)

    def _judge(self, request: ReplayRequest, values: np.ndarray, headers: http.client.HTTPMessage) -> None:
        arm = self.tally.arms[headers.get("X-Stillhouse-Arm", "unknown")]
        arm.requests += 1
        arm.fallbacks += headers.get("X-Stillhouse-Arm") != headers.get("X-Stillhouse-Served-By")
        arm.rows += len(values)
        if self._source.task == "classification":
            arm.right += int((values.reshape(len(values), -1).argmax(axis=1) == request.labels).sum())
        else:
            arm.squared_error += float(((values.reshape(len(values), -1)[:, 0] - request.labels) ** 2).sum())

    def _feed_back(self, request: ReplayRequest) -> None:
        self.tally.feedback_sent += 1
        try:
            self._post("feedback", orjson.dumps({"id": request.request_id, "labels": request.labels.tolist()}))
        except _FAILURES:
            self.tally.feedback_failed += 1

    def _post(self, action: str, body: bytes) -> tuple[http.client.HTTPMessage, bytes]:
        """Return the reply's headers and body; after a failure the next call connects anew."""
        try:
            self._connection.request("POST", f"{self._path}/{action}", body, self._headers)
            reply = self._connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if reply.status != http.client.OK:
            raise _RefusedError(reply.status)
        return reply.headers, content


class _RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


_FAILURES = (OSError, http.client.HTTPException, _RefusedError, ValueError, KeyError, IndexError, TypeError)


def _reason(failure: Exception) -> str:
    if isinstance(failure, _RefusedError):
        return f"HTTP {failure.status}"
    if isinstance(failure, (OSError, http.client.HTTPException)):
        return type(failure).__name__
    return "unreadable answer"
