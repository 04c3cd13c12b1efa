import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from infra.gateway.protocol import InferenceParser
from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.route import ModelSignature

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))  # benchmarks are run from the checkout and not installed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has measured enough leaves in the middle of an answer."""


@pytest.fixture
def port() -> Iterator[int]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_saturated_rate_counts_answers_of_all_connections(port: int) -> None:
    from benchmarks.http_load import http_request, saturated_rate

    assert saturated_rate(port, [http_request("/", b"x" * size) for size in (1, 200_000)], 4, 0.1) > 0


def test_a_client_gives_up_when_an_answer_is_an_error(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.http_load import Client, http_request, saturated_rate

    monkeypatch.setattr(Handler, "status", 500)
    requests = [http_request("/", b"{}")]
    with pytest.raises(ServiceUnavailableError, match="500"):
        Client(port, requests).round()
    with pytest.raises(ServiceUnavailableError, match="500"):
        saturated_rate(port, requests, 2, 0.1)


@pytest.mark.parametrize(
    ("received", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", 43),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 59),
    ],
)
def test_answer_length_is_known_once_the_head_is_whole(received: bytes, length: int | None) -> None:
    from benchmarks.http_load import _answer_length

    assert _answer_length(bytearray(received)) == length


def test_both_forms_of_a_request_carry_the_same_rows() -> None:
    from benchmarks.contenders import binary, open_inference

    rows = np.random.default_rng(0).random((2, 3, 784)).astype(np.float32)
    signature = ModelSignature(task="classification", input_shape=(784,), input_dtype="float32", class_names=("a", "b"))
    parser = InferenceParser(signature, "input", frozenset({"output"}), 8)
    for plain, compact, x in zip(open_inference(rows), binary(rows), rows, strict=True):
        head, _, body = compact.partition(b"\r\n\r\n")
        length = int(head.split(b"inference-header-content-length: ")[1].split(b"\r\n")[0])
        parsed = [parser.parse(plain.partition(b"\r\n\r\n")[2]), parser.parse(body, length)]
        assert parsed[0].request_id == parsed[1].request_id
        for request in parsed:
            np.testing.assert_array_equal(request.inputs, x)


def test_peers_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.contenders import PEERS_VARIABLE, peers

    rows = np.zeros((1, 1, 784), np.float32)
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv(PEERS_VARIABLE, folder)
        assert peers(tmp_path / "model.onnx", rows) == ([], ["MLServer", "LitServe", "Ray Serve"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert "Ray Serve" in peers(tmp_path / "model.onnx", rows)[1]
