import contextlib
import http.client
import socket
import threading
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

X = np.ones((1, 4), np.float32) / 8


def connect(gateway):
    address = urlsplit(gateway.server.url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def everything(connection):
    """All that the gateway sends until it closes."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def next_status(connection):
    """Take one whole reply off a connection that stays open, in however many pieces it comes, and return its status."""
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    reply.read()
    return reply.status


@pytest.fixture
def gateway(start, site, models):
    def started(**options):
        running = start(**options)
        site.wait_for(site.route(site.put(models.linear())))
        return running

    return started


def test_a_connection_that_sends_nothing_is_closed(gateway):
    running = gateway(header_timeout_s=0.1)
    with connect(running) as connection:
        assert everything(connection) == b""


def test_a_connection_whose_headers_are_slow_is_closed_with_408(gateway):
    running = gateway(header_timeout_s=0.3)
    stopped = threading.Event()
    with connect(running) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: g\r\n")

        def drip():
            while not stopped.wait(0.02):
                try:
                    connection.sendall(b"X-A: b\r\n")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        reply = everything(connection)
        stopped.set()
        dripping.join()
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'{"error":"the headers took longer than 0.3 s"}' in reply
    assert running.infer(X).status_code == 200


def test_the_second_request_of_a_connection_has_its_time_too(gateway):
    running = gateway(header_timeout_s=0.3)
    whole = b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n"
    with connect(running) as connection:
        for _ in range(3):
            connection.sendall(whole[:10])
            threading.Event().wait(0.15)
            connection.sendall(whole[10:])
            assert next_status(connection) == 200
        connection.sendall(whole[:10])
        assert everything(connection).startswith(b"HTTP/1.1 408")


def test_headers_that_are_too_long_are_cut_off_with_431(gateway):
    running = gateway()
    with connect(running) as connection:
        try:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: g\r\n")
            for _ in range(1000):
                connection.sendall(b"X-Long: " + b"a" * 8000 + b"\r\n")
        except OSError:
            pass
        reply = everything(connection)
    assert not reply or reply.startswith(b"HTTP/1.1 431")
    assert running.infer(X).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"rubbish\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: g\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: g\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: g\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_is_no_http_is_refused_with_a_json_message_and_closed(gateway, sent):
    running = gateway()
    with connect(running) as connection:
        connection.sendall(sent)
        reply = everything(connection)
    assert reply.startswith(b"HTTP/1.1 400")
    assert b'{"error":' in reply
    assert b"Traceback" not in reply
    assert running.infer(X).status_code == 200


def test_a_reply_that_comes_before_the_body_ends_the_connection(gateway):
    running = gateway()
    with connect(running) as connection:
        connection.sendall(b"POST /v2/models/unknown/infer HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\n{")
        assert everything(connection).startswith(b"HTTP/1.1 404")


def test_a_refusal_of_a_whole_request_keeps_the_connection(gateway):
    running = gateway()
    with connect(running) as connection:
        for _ in range(3):
            connection.sendall(b"POST /v2/models/unknown/infer HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}")
            assert next_status(connection) == 404


def test_one_connection_too_many_is_told_when_to_come_back(gateway):
    running = gateway(max_connections=4)
    idle = [connect(running) for _ in range(5)]
    reply = b""
    with connect(running) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n")
        reply = everything(connection)
    for one in idle:
        one.close()
    assert reply.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in reply


def test_slow_bodies_are_bounded_and_leave_room_for_others(gateway):
    running = gateway(max_uploads=2)
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\n{"
    slow = [connect(running) for _ in range(2)]
    for one in slow:
        one.sendall(head)
    assert running.http.get("/v2/health/live").status_code == 200
    with connect(running) as connection:
        connection.sendall(head)
        reply = everything(connection)
    assert reply.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in reply
    assert running.infer(X).status_code == 200
    for one in slow:
        one.close()


def test_requests_beyond_threads_and_queue_are_told_when_to_come_back(start, site, models):
    """One endless model in the only thread, one request in the queue: of six requests some are refused at once."""
    running = start(num_threads=1, max_queue=1, inline_limit_ms=0.0, inference_timeout_s=0.5)
    site.wait_for(site.route(site.put(models.endless())))
    replies = []
    callers = [
        threading.Thread(target=lambda: replies.append(running.infer(np.ones((1, 4), np.float32)))) for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    busy = [reply for reply in replies if reply.status_code == 429]
    assert len(busy) == 4
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in busy)
    assert sorted(reply.status_code for reply in replies if reply not in busy) == [500, 500]


@pytest.mark.slow
def test_a_body_of_100_mb_costs_no_memory_and_disturbs_nobody(gateway):
    running = gateway()
    process = psutil.Process()
    stopped, waits = threading.Event(), []

    def others():
        while not stopped.is_set():
            reply = running.infer(X)
            waits.append((reply.elapsed.total_seconds(), reply.status_code))

    other = threading.Thread(target=others)
    other.start()
    chunk = b" " * 65536
    before = process.memory_info().rss
    peak = before
    for declared in (True, False):
        head = f"Content-Length: {100 * 2**20}" if declared else "Transfer-Encoding: chunked"
        sent, reply = 0, b""
        with connect(running) as connection:
            connection.sendall(f"POST {running.path} HTTP/1.1\r\nHost: g\r\n{head}\r\n\r\n".encode())
            try:
                while sent < 100 * 2**20:
                    connection.sendall(chunk if declared else b"10000\r\n" + chunk + b"\r\n")
                    sent += len(chunk)
                    peak = max(peak, process.memory_info().rss)
            except OSError:
                pass
            reply = everything(connection)
        assert not reply or reply.startswith(b"HTTP/1.1 413")
        assert sent < 30 * 2**20, "it was cut off"
    stopped.set()
    other.join()
    assert {status for _, status in waits} == {200}
    assert peak - before < 24 * 2**20
    print(f"rss +{(peak - before) / 2**20:.1f} MiB; {len(waits)} others, slowest {max(waits)[0] * 1e3:.1f} ms")


UNKNOWN = b"POST /v2/models/unknown/infer HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n"


def test_a_connection_lives_on_when_the_rest_of_a_refused_body_comes_late(gateway):
    running = gateway(header_timeout_s=5.0)
    with connect(running) as connection:
        for _ in range(3):
            connection.sendall(UNKNOWN % 1000)
            assert next_status(connection) == 404
            connection.sendall(b"a" * 400)
            connection.sendall(b"a" * 600 + LIVE)
            assert next_status(connection) == 200


def test_a_connection_is_closed_when_the_rest_of_a_refused_body_never_comes(gateway):
    running = gateway(header_timeout_s=0.3)
    with connect(running) as connection:
        connection.sendall(UNKNOWN % 1000 + b"a" * 10)
        reply = everything(connection)
    assert reply.startswith(b"HTTP/1.1 404")
    assert reply.count(b"HTTP/1.1") == 1


def test_a_connection_is_cut_when_the_rest_of_a_refused_body_is_long(gateway):
    running = gateway(header_timeout_s=30.0)
    sent = 0
    with connect(running) as connection:
        connection.sendall(UNKNOWN % (256 * 2**20))
        assert next_status(connection) == 404
        with contextlib.suppress(OSError):
            for _ in range(2_500):
                connection.sendall(b"a" * 100_000)
                sent += 100_000
    assert sent < 100_000_000
    assert running.infer(X).status_code == 200
