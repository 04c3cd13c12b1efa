"""What a replay sends, and when."""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.adapters.gateway_client import infer_body
from tasks.contracts.data import Task
from tasks.contracts.errors import DataError


class RowSource:
    """Which rows the n-th request holds: a fresh shuffle of all rows each time they are used up.

    Raises:
        DataError: the rows do not fit the model, or `x` and `y` each other.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        metadata: dict[str, Any],
        rows_per_request: int,
        seed: int,
        feedback_share: float,
    ) -> None:
        tensor = metadata["inputs"][0]
        expected = tuple(tensor["shape"][1:])
        if len(x) != len(y) or not len(x):
            raise DataError(f"x has {len(x)} rows and y {len(y)}; give one label for every row, and at least one row")
        if x.shape[1:] != expected:
            raise DataError(f"rows of shape {x.shape[1:]} do not fit the model, which takes {expected}")
        self.task: Task = "classification" if np.issubdtype(y.dtype, np.integer) else "regression"
        self._x = x.astype(np.int64 if tensor["datatype"] == "INT64" else np.float32, copy=False)
        self._y = y
        self._input_name = str(tensor["name"])
        self._rows_per_request = rows_per_request
        self._seed = seed
        self._feedback_share = feedback_share
        self._run = uuid.uuid4().hex[:12]  # request ids of two replays never meet
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def request(self, number: int) -> "ReplayRequest":
        """Return the n-th request."""
        positions = range(number * self._rows_per_request, (number + 1) * self._rows_per_request)
        rows = np.array([self._order(position // len(self._x))[position % len(self._x)] for position in positions])
        request_id = f"{self._run}-{number}"
        body = infer_body(self._input_name, self._x[rows], request_id)
        return ReplayRequest(request_id, body, self._y[rows], self._wants_feedback(number))

    def _wants_feedback(self, number: int) -> bool:
        if self._feedback_share in (0.0, 1.0):
            return self._feedback_share == 1.0
        return bool(np.random.default_rng([self._seed, 1, number]).random() < self._feedback_share)

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._x))
                self._epochs.pop(epoch - 2, None)
            return self._epochs[epoch]


@dataclass(frozen=True)
class ReplayRequest:
    """One request, and the labels [N] of its rows."""

    request_id: str
    body: bytes
    labels: np.ndarray
    wants_feedback: bool


class Turns:
    """Hands out request numbers, at the wanted rate, until enough were sent or the caller says stop."""

    def __init__(self, requests: int | None, rate: float | None, stop: Callable[[], bool]) -> None:
        self._numbers: Iterator[int] = itertools.count() if requests is None else iter(range(requests))
        self._rate, self._stop = rate, stop
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._started = time.perf_counter()

    def close(self) -> None:
        """Hand out no more."""
        self._closed.set()

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers that fall to this thread."""
        while not self._closed.is_set() and not self._stop():
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            if self._rate:
                due = self._started + number / self._rate
                self._closed.wait(max(0.0, due - time.perf_counter()))
            yield number
