import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Lock, Thread

import pytest

from tasks.adapters.s3_connection import S3Options
from tasks.adapters.s3_create_once import _Meeting, winners


def test_hold_lets_no_body_go_before_all_are_asked_for():
    meeting, began = _Meeting(3), count()
    held = [type("Request", (), {"body": b"x"})() for _ in range(3)]
    for request in held:
        meeting.hold(request)

    def send(request):
        next(began)
        body = request.body.read(), next(began)
        assert request.body.read() == b""
        return body

    with ThreadPoolExecutor(3) as pool:
        sent = list(pool.map(send, held))
    assert [data for data, _ in sent] == [b"x"] * 3
    assert min(number for _, number in sent) >= 3


def test_wait_gives_up_on_writers_that_are_refused_before_they_are_asked_for_a_body(monkeypatch):
    monkeypatch.setattr("tasks.adapters.s3_create_once._MEET_WITHIN_S", 0.01)
    request = type("Request", (), {"body": b"x"})()
    _Meeting(2).hold(request)
    assert request.body.read() == b"x"


@pytest.mark.parametrize("body", [b"xyz", io.BytesIO(b"xyz")], ids=["bytes", "a stream"])
def test_a_body_can_be_sent_again_when_the_server_failed_and_waits_for_nobody_then(body):
    waits = count(1)
    request = type("Request", (), {"body": body})()
    meeting = _Meeting(1)
    meeting.wait = lambda: next(waits)
    meeting.hold(request)
    assert request.body.read() == b"xyz"
    assert request.body.seek(0) == 0
    assert request.body.read() == b"xyz"
    assert request.body.read() == b""
    assert next(waits) == 2, "it waited once"


def test_winners_counts_those_that_were_told_so_and_gives_all_one_key():
    keys = set()

    def create(_client, key):
        keys.add(key)
        return True

    assert winners(S3Options(endpoint="http://127.0.0.1:9"), create) == 4
    assert len(keys) == 1


class Store:
    """A server that creates objects; `looks` says when it looks whether one is there."""

    def __init__(self, looks="when the body is there", failures=0):
        self.looks, self.failures = looks, failures
        self.objects, self.bodies, self.lock = set(), [], Lock()

    def put(self, path, read):
        """Answer a put: 500 to the first ones."""
        taken = path in self.objects
        body = read()
        with self.lock:
            if self.failures:
                self.failures -= 1
                return 500
            if self.looks == "when the body is there":
                taken = path in self.objects
            self.objects.add(path)
            self.bodies.append(body)
        return 412 if taken else 200


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves a store and gives the options of a connection to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a")
    with ExitStack() as endings:

        def started(store):
            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def do_PUT(self):
                    status = store.put(self.path, lambda: self.rfile.read(int(self.headers["Content-Length"])))
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

                def log_message(self, *_):
                    """Say nothing."""

            server = endings.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            server.daemon_threads = True
            thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            endings.callback(thread.join)
            endings.callback(server.shutdown)
            return S3Options(endpoint=f"http://127.0.0.1:{server.server_address[1]}", region="us-east-1")

        yield started


def create(client, key):
    try:
        client.put_object(Bucket="b", Key=key, Body=b"xyz", IfNoneMatch="*")
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise
        return False
    return True


@pytest.mark.parametrize("looks", ["when the headers are there", "when the body is there"])
def test_winners_finds_out_a_server_that_looks_too_early(looks, serve):
    assert winners(serve(Store(looks)), create) == (4 if looks == "when the headers are there" else 1)


def test_winners_sends_the_whole_body_again_when_the_server_failed(serve):
    store = Store(failures=3)
    assert winners(serve(store), create) == 1
    assert store.bodies == [b"xyz"] * 4
