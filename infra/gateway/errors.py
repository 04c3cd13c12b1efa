"""What can go wrong with one request, as the caller will see it."""

import math


class RequestError(Exception):
    """The request is refused: an HTTP status from 400 on, and a message that repeats nothing of the input."""

    def __init__(
        self, status: int, message: str, *, close: bool = False, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close
        """Whether the connection is to be closed, because the rest of the body is not wanted."""
        self.headers = headers
        """What the reply says beside the message, such as when to try again."""


class BusyError(RequestError):
    """The request may be answered if it is sent again later: 429 or 503, with Retry-After in whole seconds."""

    def __init__(self, status: int, message: str, *, retry_after_s: float = 1.0) -> None:
        seconds = max(1, math.ceil(retry_after_s))
        super().__init__(status, message, headers=((b"retry-after", b"%d" % seconds),))


class InferenceError(Exception):
    """A model gave no usable answer; `reason` is what the prediction log records."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
