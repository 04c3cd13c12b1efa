"""Answers given again without running the model: raw outputs, by the model's digest and the input's values."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from infra.gateway.metrics import GatewayMetrics
from tasks.contracts.route import ArmName, Route
from tasks.contracts.value import Digest

_ENTRY_BYTES, _ARRAY_BYTES = 400, 128
"""What Python holds for an entry and for each array beside the values; a test compares them with real memory."""


class AnswerCache:
    """The answers used last, in at most `max_bytes`; safe to use from several threads.

    Only what a model answered is kept, under that model's own digest: a change of the route needs no emptying, and
    a model that comes back after a rollback finds its answers again.
    """

    def __init__(self, max_bytes: int, metrics: GatewayMetrics) -> None:
        self._max_bytes, self._metrics = max_bytes, metrics
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Digest, bytes], list[np.ndarray]] = OrderedDict()
        self._num_bytes = 0
        metrics.cache_bytes.set_function(lambda: self._num_bytes)

    @property
    def num_bytes(self) -> int:
        """Memory that the entries hold; never above `max_bytes`."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: Digest, fingerprint: bytes) -> list[np.ndarray] | None:
        """Return the outputs, read-only and shared by all who get them, or None."""
        key = (digest, fingerprint)
        with self._lock:
            outputs = self._entries.get(key)
            if outputs is not None:
                self._entries.move_to_end(key)
        return outputs

    def put(self, digest: Digest, fingerprint: bytes, outputs: Sequence[np.ndarray]) -> None:
        """Keep a copy of the outputs, and drop those unused for longest; what is larger than the cache is not kept."""
        size = entry_bytes(outputs)
        if size > self._max_bytes:
            return
        kept = [np.array(output) for output in outputs]  # a view would keep the whole array alive that it is of
        for output in kept:
            output.flags.writeable = False
        num_evicted = 0
        with self._lock:
            before = self._entries.pop((digest, fingerprint), None)
            if before is not None:
                self._num_bytes -= entry_bytes(before)
            while self._num_bytes + size > self._max_bytes:
                self._num_bytes -= entry_bytes(self._entries.popitem(last=False)[1])
                num_evicted += 1
            self._entries[digest, fingerprint] = kept
            self._num_bytes += size
        self._metrics.cache_evictions.inc(num_evicted)

    def recall(self, route: Route, arm: ArmName, fingerprint: bytes) -> list[np.ndarray] | None:
        """Return what the request's arm answered to this input before, and count the hit or the miss.

        Whether a request is a hit must not depend on its arm. Hits are no evidence; were the warm arm's popular
        inputs left out of the count and the cold arm's not, what is left would neither be divided as the route says
        nor be alike. So while traffic is divided, a hit needs the answers of both arms.
        """
        champion = self.get(route.champion.digest, fingerprint)
        outputs = champion
        if route.challenger is not None and route.weight > 0:
            challenger = self.get(route.challenger.digest, fingerprint)
            outputs = challenger if arm == "challenger" else champion
            if champion is None or challenger is None:
                outputs = None
        counter = self._metrics.cache_misses if outputs is None else self._metrics.cache_hits
        counter.labels(route.model_name, arm).inc()
        return outputs


def fingerprint_of(inputs: np.ndarray) -> bytes:
    """Return the SHA-256 of a tensor's type, shape and values in row-major order; its bytes on the wire do not count.

    SHA-256 takes 3 µs for 784 floats, and an entry need not keep the input to be sure that it is the same.
    """
    hashed = hashlib.sha256(f"{inputs.dtype.str}{inputs.shape}".encode())
    hashed.update(np.ascontiguousarray(inputs).data)
    return hashed.digest()


def entry_bytes(outputs: Sequence[np.ndarray]) -> int:
    """Return the memory that an entry is counted with."""
    return _ENTRY_BYTES + sum(_ARRAY_BYTES + output.nbytes for output in outputs)
