"""An S3 server in this process, and a proxy before it that breaks what a test tells it to."""

import http.client
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_connection import Patience, S3Options, make_client
from tasks.contracts.object_place import ObjectPlace

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
SETTING = "STILLHOUSE_STORE_URL"


@dataclass(frozen=True)
class Fault:
    """What happens to one request: nothing of it when all is at its default."""

    status: int = 0
    """Answer this."""
    forwarded: bool = False
    """Let the server do what was asked before that answer: an answer that was lost."""
    cut_at: int | None = None
    """Close the connection after so many bytes of the body."""
    without: str = ""
    """A header that the server never sees."""
    changed: bool = False
    """Flip the first byte of the answer's body."""
    sent_changed: bool = False
    """Flip the first byte of the request's body."""
    silent_on: str = ""
    """A header of the answer that the client never sees."""
    bytes_per_s: float | None = None
    """How fast bodies go through, either way."""


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, total_s: float = 150.0) -> Patience:
        return Patience(sdk_attempts=1, total_s=total_s, clock=lambda: self.now, sleep=self.sleep)


class FaultyProxy:
    """Forwards to a server; `fault` is asked about each (method, path)."""

    def __init__(
        self, host: str, port: int, *, listen: tuple[str, int] = ("127.0.0.1", 0), one_at_a_time: bool = False
    ) -> None:
        """Forward to a port; conditional puts one at a time if the server looks and creates in two steps."""
        turn = threading.Lock() if one_at_a_time else nullcontext()
        self.fault: Callable[[str, str], Fault | None] = lambda method, path: None
        self.after: Callable[[], object] = lambda: None
        """Called once, between the server's next answer and the client."""
        self.seen: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.seen.append((self.command, self.path))
                fault = proxy.fault(self.command, self.path) or Fault()
                if fault.bytes_per_s:
                    time.sleep(len(body) / fault.bytes_per_s)
                if fault.status and not fault.forwarded:
                    return self._answer(fault.status, {}, b"")
                dropped = {"expect", fault.without.lower()}
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                if fault.sent_changed and body:
                    body = bytes([body[0] ^ 1]) + body[1:]
                upstream = http.client.HTTPConnection(host, port, timeout=30)
                with turn if "If-None-Match" in self.headers else nullcontext():  # dropped or not
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    data = answer.read()
                upstream.close()
                after, proxy.after = proxy.after, lambda: None
                after()
                if fault.bytes_per_s:
                    time.sleep(len(data) / fault.bytes_per_s)
                if fault.status:
                    return self._answer(fault.status, {}, b"")
                if fault.changed and data:
                    data = bytes([data[0] ^ 1]) + data[1:]
                told = {name: value for name, value in answer.getheaders() if name.lower() != fault.silent_on}
                return self._answer(answer.status, told, data, fault.cut_at)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any  # noqa: N815

            def _answer(self, status: int, headers: dict[str, str], data: bytes, cut_at: int | None = None) -> None:
                self.send_response(status)
                length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "connection", "transfer-encoding", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[:cut_at])
                if cut_at is not None:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(listen, Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def behave(self) -> None:
        """Forget all faults and all that was seen."""
        self.fault, self.after = (lambda method, path: None), (lambda: None)
        self.seen.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class World:
    """A bucket of one test, reached through the proxy."""

    server: str
    proxy: FaultyProxy
    kind: str
    """`moto`, which believes every checksum and has every key, or the name of a server that keeps data."""
    clock: Clock = field(default_factory=Clock)
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        self.client = make_client(S3Options(endpoint=self.server, patience=Patience(sdk_attempts=1)))
        self.client.create_bucket(Bucket=self.name)

    @property
    def url(self) -> str:
        return f"s3://{self.name}/team/store"

    def options(self, **changes: object) -> S3Options:
        return S3Options(**({"endpoint": self.proxy.url, "patience": self.clock.patience()} | changes))

    def bucket(self, **changes: object) -> Bucket:
        return Bucket(ObjectPlace.parse(self.url, SETTING), self.options(**changes), SETTING)

    def objects(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [item["Key"].removeprefix("team/store/") for item in found]

    def raw(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=f"team/store/{key}")["Body"].read()

    def overwrite(self, key: str, data: bytes, **fields: object) -> None:
        self.client.put_object(Bucket=self.name, Key=f"team/store/{key}", Body=data, **fields)

    def head(self, key: str) -> dict:
        return self.client.head_object(Bucket=self.name, Key=f"team/store/{key}", ChecksumMode="ENABLED")
