from concurrent.futures import ThreadPoolExecutor
from itertools import count

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


def test_a_body_can_be_sent_again_when_the_server_failed_and_waits_for_nobody_then():
    waits = count(1)
    request = type("Request", (), {"body": b"xyz"})()
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


@pytest.mark.parametrize("looks", ["when the headers are there", "when the body is there"])
def test_winners_finds_out_a_server_that_looks_too_early(looks, monkeypatch):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Lock, Thread

    objects, lock = set(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            taken = self.path in objects
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                if looks == "when the body is there":
                    taken = self.path in objects
                objects.add(self.path)
            self.send_response(412 if taken else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    def create(client, key):
        try:
            client.put_object(Bucket="b", Key=key, Body=b"x", IfNoneMatch="*")
        except client.exceptions.ClientError:
            return False
        return True

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    options = S3Options(endpoint=f"http://127.0.0.1:{server.server_address[1]}", region="us-east-1")
    found = winners(options, create)
    server.shutdown()
    thread.join()
    server.server_close()
    assert found == (4 if looks == "when the headers are there" else 1)
