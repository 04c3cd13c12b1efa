"""What can go wrong with one request, as the caller will see it."""


class RequestError(Exception):
    """The request is refused: an HTTP status from 400 on, and a message that repeats nothing of the input."""

    def __init__(self, status: int, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close
        """Whether the connection is to be closed, because the rest of the body is not wanted."""


class InferenceError(Exception):
    """A model gave no usable answer; `reason` is what the prediction log records."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
