"""Whether a server lets one of several writers create an object: asked of the server, not of its manual.

Two servers fail in two ways. One ignores `If-None-Match: *`, and creates what is there. Another looks when a request
begins and not when its object appears, so that it refuses the second of two writers only if the first had finished:
nothing tells until two write at once. Here several requests are begun, and end together.
"""

import io
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from tasks.adapters.s3_connection import S3Options, new_client

_WRITERS = 4
_MEET_WITHIN_S = 2.0
_SETTLE_S = 0.1
"""For the server to look at the last request before any of them ends."""
_EVENT = "before-send.s3.PutObject"


class _Meeting:
    """Holds the bodies of puts back until the headers of all have been sent."""

    def __init__(self, writers: int) -> None:
        self._writers, self._arrived = writers, 0
        self._lock, self._all = threading.Lock(), threading.Event()

    def wait(self) -> None:
        """Wait for the others, for a short while: a server may refuse some before it asks for their bodies."""
        with self._lock:
            self._arrived += 1
            last = self._arrived == self._writers
        if last:
            time.sleep(_SETTLE_S)
            self._all.set()
        self._all.wait(_MEET_WITHIN_S)

    def hold(self, request: Any, **_: object) -> None:
        """Handle botocore's event: headers go at once, the body when it is read."""
        request.body = _HeldBody(request.body, self.wait)


class _HeldBody:
    """A body that waits before it is first read, and is rewound where the server failed and it is sent again."""

    def __init__(self, body: bytes | IO[bytes], wait: Callable[[], None]) -> None:
        self._body = io.BytesIO(body) if isinstance(body, bytes | bytearray) else body  # botocore hands over both
        self._wait: Callable[[], None] | None = wait

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of what is left, or all."""
        if self._wait is not None:
            self._wait()
            self._wait = None
        return self._body.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on from there."""
        return self._body.seek(offset, whence)


def winners(options: S3Options, create: Callable[[Any, str], bool]) -> int:
    """Return how many of several writers at once were told that they created one object; 1 is right.

    Args:
        options: of the connection.
        create: put an object through this client under this key if that is free, and tell whether it was.
    """
    client, key, meeting = new_client(options), uuid.uuid4().hex, _Meeting(_WRITERS)
    client.meta.events.register_last(_EVENT, meeting.hold)
    with ThreadPoolExecutor(_WRITERS) as pool:
        return sum(pool.map(lambda _: create(client, key), range(_WRITERS)))
