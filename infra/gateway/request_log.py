"""The process's own log: one line for each request that was refused or failed, as text or as JSON."""

import logging
from typing import Any, Literal

import orjson
from starlette.types import Scope

LogFormat = Literal["text", "json"]

_HEADERS = {
    b"x-stillhouse-request-id": "request_id",
    b"x-stillhouse-arm": "arm",
    b"x-stillhouse-served-by": "served_by",
    b"x-stillhouse-model-version": "model_version",
    b"x-stillhouse-run-id": "run_id",
}
_SERVER_FAILED = 500
_MAX_PATH = 300

logger = logging.getLogger("infra.gateway.requests")


class RequestLog:
    """Tells of requests by what their replies say of them, so that requests which nobody asks about cost nothing."""

    def __init__(self, *, every_request: bool = False) -> None:
        self.every_request = every_request

    def write(
        self, scope: Scope, status: int, headers: list[tuple[bytes, bytes]], elapsed_ms: float, failure: str | None
    ) -> None:
        """Write the line of one request.

        Args:
            scope: the request.
            status: of the reply.
            headers: of the reply.
            elapsed_ms: from the request's start to its reply.
            failure: what the caller was told, if it was refused.
        """
        fields: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"][:_MAX_PATH],
            "status": status,
            "ms": round(elapsed_ms, 3),
        }
        fields |= {_HEADERS[name]: value.decode("latin-1") for name, value in headers if name in _HEADERS}
        if client := scope.get("client"):
            fields["client"] = client[0]
        if failure:
            fields["reason"] = failure
        level = logging.ERROR if status >= _SERVER_FAILED else logging.INFO
        logger.log(level, "request", extra={"fields": fields})


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value ...`; values are JSON, so that no caller can forge a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line without the traceback."""
        fields = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={_json(value)}" for name, value in fields.items())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, message, the fields, and a traceback as text."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document = {
            "at": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return _json(document)


def configure_logging(form: LogFormat) -> None:
    """Send the process's whole log to standard error, instead of wherever it went."""
    own = logging.getLogger("infra")
    own.handlers.clear()
    own.setLevel(logging.NOTSET)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # a path with bytes that are no text
        return orjson.dumps(ascii(value)).decode()
