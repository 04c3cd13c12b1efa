"""Answers given again without running the model, and bodies understood again without reading them.

The first level knows what a body asks for, by its bytes; the second what a model answers, by its digest and the input's
values. The first holds no answers, so whatever it says, the arm and the model are those of the present route.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol import InferRequest
from tasks.contracts.route import ArmName, Route
from tasks.contracts.value import Digest

_ENTRY_BYTES, _ARRAY_BYTES = 400, 128
"""What Python holds for an entry and for each array beside the values; a test compares them with real memory."""
_BODY_BYTES, _NAME_BYTES = 1100, 100
"""The same for a known body beside its sketch and texts, and for each output that it names."""


class BodyKey(NamedTuple):
    """All that the meaning of a body depends on; two that agree are read alike to the last value."""

    parser: bytes
    """`identity` of the parser: signature, names and limits of the model."""
    protocol: bytes
    """The protocol that it came by."""
    json_length: bytes | None
    """The header Inference-Header-Content-Length."""
    content_type: bytes | None
    digest: bytes
    """SHA-256 of the bytes."""


class KnownBody(NamedTuple):
    """What a body asks for, all but the values of its input."""

    request: InferRequest
    """Without inputs. Unless `is_named`, its id was that of one request and is not this one's."""
    fingerprint: bytes
    """Of the inputs."""
    sketch: np.ndarray
    """[N, 2 + SKETCH_SIZE], of the inputs: what the log records of them."""


class AnswerCache:
    """What was used last, in at most `max_bytes`; safe to use from several threads.

    Only what a model answered is kept, under that model's own digest: a change of the route needs no emptying, and
    a model that comes back after a rollback finds its answers again.
    """

    def __init__(self, max_bytes: int, metrics: GatewayMetrics) -> None:
        self._max_bytes, self._metrics = max_bytes, metrics
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Digest, bytes] | BodyKey, tuple[list[np.ndarray] | KnownBody, int]]
        self._entries = OrderedDict()
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
        found = self._get((digest, fingerprint))
        assert not isinstance(found, KnownBody)
        return found

    def put(self, digest: Digest, fingerprint: bytes, outputs: Sequence[np.ndarray]) -> None:
        """Keep a copy of the outputs, and drop those unused for longest; what is larger than the cache is not kept."""
        size = entry_bytes(outputs)
        if size > self._max_bytes:
            return
        kept = [np.array(output) for output in outputs]  # a view would keep the whole array alive that it is of
        for output in kept:
            output.flags.writeable = False
        self._put((digest, fingerprint), kept, size)

    def get_body(self, key: BodyKey) -> KnownBody | None:
        """Return what a body asks for, or None if it is not known."""
        found = self._get(key)
        assert found is None or isinstance(found, KnownBody)
        return found

    def put_body(self, key: BodyKey, body: KnownBody) -> None:
        """Keep what a body asks for, in the same memory as the answers."""
        size = body_bytes(key, body)
        if size <= self._max_bytes:
            body.sketch.flags.writeable = False
            self._put(key, body, size)

    def recall(
        self, route: Route, arm: ArmName, fingerprint: bytes, *, is_last: bool = True
    ) -> list[np.ndarray] | None:
        """Return what the request's arm answered to this input before, and count the hit or the miss.

        Whether a request is a hit must not depend on its arm. Hits are no evidence; were the warm arm's popular
        inputs left out of the count and the cold arm's not, what is left would neither be divided as the route says
        nor be alike. So while traffic is divided, a hit needs the answers of both arms.

        Args:
            route: the model's.
            arm: that the request falls to.
            fingerprint: of its inputs.
            is_last: whether a miss counts, because the model is run then; False where the request is looked for again.
        """
        champion = self.get(route.champion.digest, fingerprint)
        outputs = champion
        if route.challenger is not None and route.weight > 0:
            challenger = self.get(route.challenger.digest, fingerprint)
            outputs = challenger if arm == "challenger" else champion
            if champion is None or challenger is None:
                outputs = None
        if outputs is not None:
            self._metrics.cache_hits.count(route.model_name, arm)
        elif is_last:
            self._metrics.cache_misses.count(route.model_name, arm)
        return outputs

    def _get(self, key: tuple[Digest, bytes] | BodyKey) -> list[np.ndarray] | KnownBody | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
        return entry[0]

    def _put(self, key: tuple[Digest, bytes] | BodyKey, kept: list[np.ndarray] | KnownBody, size: int) -> None:
        num_evicted = 0
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._num_bytes -= before[1]
            while self._num_bytes + size > self._max_bytes:
                self._num_bytes -= self._entries.popitem(last=False)[1][1]
                num_evicted += 1
            self._entries[key] = kept, size
            self._num_bytes += size
        if num_evicted:
            self._metrics.cache_evictions.inc(num_evicted)


def fingerprint_of(inputs: np.ndarray) -> bytes:
    """Return the SHA-256 of a tensor's type, shape and values in row-major order; its bytes on the wire do not count.

    SHA-256 takes 3 µs for 784 floats, and an entry need not keep the input to be sure that it is the same.
    """
    hashed = hashlib.sha256(f"{inputs.dtype.str}{inputs.shape}".encode())
    hashed.update(np.ascontiguousarray(inputs).data)
    return hashed.digest()


def entry_bytes(outputs: Sequence[np.ndarray]) -> int:
    """Return the memory that an answer is counted with."""
    return _ENTRY_BYTES + sum(_ARRAY_BYTES + output.nbytes for output in outputs)


def body_bytes(key: BodyKey, body: KnownBody) -> int:
    """Return the memory that a known body is counted with."""
    request = body.request
    names = sum(_NAME_BYTES + len(name) for name in (*(request.outputs.names or ()), *request.outputs.binary))
    texts = len(request.request_id) + len(key.json_length or b"") + len(key.content_type or b"")
    return _BODY_BYTES + _ARRAY_BYTES + body.sketch.nbytes + texts + names
