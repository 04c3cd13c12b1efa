import json
import logging
import sys

import orjson
import pytest

from infra.gateway.request_log import JsonFormatter, RequestLog, TextFormatter

SCOPE = {"method": "POST", "path": "/v2/models/a\r\nFORGED line\x00\udcff/infer", "client": ("127.0.0.1", 5)}
HEADERS = [
    (b"content-type", b"application/json"),
    (b"x-stillhouse-request-id", b"r-1"),
    (b"x-stillhouse-arm", b"challenger"),
    (b"x-stillhouse-served-by", b"champion"),
    (b"x-stillhouse-model-version", b"7"),
]


@pytest.fixture
def record(caplog):
    """The record of one failed request."""

    def written(status=500, failure=None, path=SCOPE["path"]):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="infra.gateway.requests"):
            RequestLog().write(SCOPE | {"path": path}, status, HEADERS, 1.23456, failure)
        (found,) = caplog.records
        return found

    return written


def test_write_tells_id_arm_version_status_and_milliseconds(record):
    fields = json.loads(JsonFormatter().format(record(path="/v2/models/a/infer", failure="no")))
    assert {name: fields[name] for name in list(fields)[3:]} == {
        "message": "request",
        "method": "POST",
        "path": "/v2/models/a/infer",
        "status": 500,
        "ms": 1.235,
        "request_id": "r-1",
        "arm": "challenger",
        "served_by": "champion",
        "model_version": "7",
        "client": "127.0.0.1",
        "reason": "no",
    }


def test_write_is_an_error_only_when_the_gateway_failed(record):
    assert [record(status).levelname for status in (200, 400, 429, 500, 503)] == [
        "INFO", "INFO", "INFO", "ERROR", "ERROR"
    ]  # fmt: skip


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_line_stays_one_line_when_the_path_holds_line_breaks_and_no_text(record, formatter):
    line = formatter.format(record())
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert "FORGED" in line


def test_a_line_stays_short_when_the_path_is_long(record):
    assert len(JsonFormatter().format(record(path="/" + "a" * 60_000))) < 1000


def test_json_formatter_keeps_a_traceback_inside_the_object():
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it %s", ("failed",), sys.exc_info())
    document = orjson.loads(JsonFormatter().format(record))
    assert (document["message"], document["level"], document["logger"]) == ("it failed", "ERROR", "x")
    assert document["traceback"].endswith("ValueError: boom")
