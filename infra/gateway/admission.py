"""How many requests may be at work and waiting: what does not fit is told when to come back, at once."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from starlette.types import Scope

from infra.gateway.errors import BusyError

ARRIVAL = "stillhouse.arrival"
"""Where a request's scope holds its `Arrival`."""

_SMOOTHING = 0.1
_BRIEF_S = 1e-3


class Arrival(NamedTuple):
    """What is known of a request when its headers have come."""

    at: float
    """`time.perf_counter()`."""
    ahead: int
    """Requests that came before it and have not begun."""


class Admission:
    """The bounds of one gateway.

    Short requests run in the event loop, one after the other; they wait in its queue. Long ones run in threads and
    wait here for a free one. Both queues are bounded in number, and by the time that a request may wait.
    """

    def __init__(self, *, num_threads: int, max_queue: int, max_uploads: int, deadline_s: float) -> None:
        self._max_queue, self._max_uploads, self._deadline_s = max_queue, max_uploads, deadline_s
        self._num_threads = self._free = num_threads
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._num_arrived = 0
        self._num_uploads = 0
        self._short_s = self._long_s = _BRIEF_S
        self.draining = False
        """Whether the gateway is about to end: it says that it is not ready, and still answers."""
        self.closed = False
        """Whether nothing new is begun."""

    def arrive(self) -> Arrival:
        """Count a request whose headers have come; `leave_queue` must follow."""
        self._num_arrived += 1
        return Arrival(time.perf_counter(), self._num_arrived - 1)

    def leave_queue(self) -> None:
        """Count a request as begun."""
        self._num_arrived -= 1

    def begin(self, scope: Scope) -> float:
        """Let a request for inference begin; return the seconds that it has waited.

        Raises:
            BusyError: 503 when the gateway is about to end or the request has waited too long, 429 when too many
                were before it.
        """
        if self.closed:
            raise BusyError(503, "this gateway is about to end; ask another")
        arrival: Arrival | None = scope.get(ARRIVAL)
        if arrival is None:
            return 0.0
        backlog_s = arrival.ahead * self._short_s
        if arrival.ahead >= self._max_queue or backlog_s > self._deadline_s:
            raise BusyError(429, "too many requests are waiting", retry_after_s=backlog_s)
        waited_s = time.perf_counter() - arrival.at
        if waited_s > self._deadline_s:
            raise self._overdue(backlog_s)
        return waited_s

    def observe(self, seconds: float) -> None:
        """Take in what a short request took, from its begin to its answer."""
        self._short_s += _SMOOTHING * (seconds - self._short_s)

    @contextlib.asynccontextmanager
    async def thread(self, waited_s: float) -> AsyncIterator[None]:
        """Hold one of the threads for the block.

        Args:
            waited_s: what the request has waited before.

        Raises:
            BusyError: 429 when too many wait or it would take too long, 503 when it did.
        """
        await self._take(self._deadline_s - waited_s)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._long_s += _SMOOTHING * (time.perf_counter() - started - self._long_s)
            self._give()

    @contextlib.contextmanager
    def upload(self) -> Iterator[None]:
        """Hold a place among the bodies that are still coming.

        Raises:
            BusyError: 429, there is none.
        """
        if self._num_uploads >= self._max_uploads:
            raise BusyError(429, "too many bodies are being sent")
        self._num_uploads += 1
        try:
            yield
        finally:
            self._num_uploads -= 1

    async def _take(self, within_s: float) -> None:
        if self._free:
            self._free -= 1
            return
        expected_s = (len(self._waiting) + 1) * self._long_s / self._num_threads
        if len(self._waiting) >= self._max_queue or expected_s > within_s:
            raise BusyError(429, "too many requests are waiting", retry_after_s=expected_s)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(within_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give()  # its turn came in the same moment
            else:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._overdue(expected_s) from None
            raise

    def _give(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1

    def _overdue(self, retry_after_s: float) -> BusyError:
        return BusyError(
            503, f"the request waited longer than {self._deadline_s:g} s for its turn", retry_after_s=retry_after_s
        )
