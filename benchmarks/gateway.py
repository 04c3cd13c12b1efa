"""What the gateway adds to a request, against the least that could answer it.

All servers share one core and the client has another; they take turns by short rounds, so an idle
server costs the busy one nothing, and whatever slows the machine slows all.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnx
import psutil

from benchmarks.onnx_models import convolutional
from benchmarks.result import RATIO, Figure, Findings, figure, ratio
from tasks.adapters.gateway_client import infer_body
from tasks.adapters.local_store import write_atomically
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.evaluation.onnx_flops import count_flops
from tasks.runtime.services import connect

_MODEL_NAME = "digits"
_NUM_INPUTS = 784
_SEED = 0
_NUM_BODIES = 64
_WARM_UPS = 500
_REQUESTS_PER_ROUND = 100
_SECONDS = 60.0
_READY_WITHIN_S = 60.0
_CLIENT_CORE, _SERVER_CORE = 0, -1

_GATEWAY, _ASGI, _STARLETTE = "gateway", "bare ASGI", "bare Starlette"


def measure() -> Findings:
    """Send the same requests to all servers in turns."""
    model, other = convolutional(_SEED), convolutional(_SEED + 1)
    path = connect().settings.home / "model.onnx"
    write_atomically(path, model)
    _publish_split(model, other)
    bodies = _bodies()
    with ExitStack() as stack:
        with _on_core(_SERVER_CORE):
            servers = {name: stack.enter_context(_server(command)) for name, command in _commands(path).items()}
        stack.enter_context(_on_core(_CLIENT_CORE))
        clients = {name: stack.enter_context(_client(server, bodies)) for name, server in servers.items()}
        for client in clients.values():
            client.warm_up()
        seconds, cpu_seconds = _rounds(clients, servers)
    mflop = count_flops(onnx.load_model_from_string(model), (_NUM_INPUTS,)) / 1e6
    return Findings(
        question="How much of a bare server's rate does the gateway keep?",
        setup=(
            f"One row of {_NUM_INPUTS} floats as JSON to a model of {mflop:.1f} MFLOP, one request at a time; "
            "servers on one core, client on another. The gateway divides traffic 50:50 between two such "
            "models, with its checks, metrics and prediction log on; the bare servers have one model and nothing else."
        ),
        seeds={"weights and rows": _SEED},
        figures=tuple(_figures(seconds, cpu_seconds)),
    )


def _publish_split(champion: bytes, challenger: bytes) -> None:
    services = connect()
    arms = [
        Arm(digest=services.artifacts.put(model).digest, version=n) for n, model in enumerate((champion, challenger), 1)
    ]
    signature = ModelSignature(
        task="classification",
        input_shape=(_NUM_INPUTS,),
        input_dtype="float32",
        class_names=tuple(str(digit) for digit in range(10)),
    )
    route = Route(
        model_name=_MODEL_NAME, signature=signature, champion=arms[0], challenger=arms[1], weight=50.0,
        salt="benchmark", rollout_id="benchmark",
    )  # fmt: skip
    RouteStore(services.documents, services.settings.store_root).publish(route, 0)


def _commands(model: Path) -> dict[str, list[str]]:
    settings = connect().settings
    folders = ["--store", str(settings.store_root), "--traffic", str(settings.traffic_root)]
    return {
        _GATEWAY: [sys.executable, "-m", "infra.gateway", "--port", "0", *folders],
        _ASGI: [sys.executable, "-m", "benchmarks.bare_servers", "asgi", str(model)],
        _STARLETTE: [sys.executable, "-m", "benchmarks.bare_servers", "starlette", str(model)],
    }


def _bodies() -> list[bytes]:
    """Return requests with ids of their own, so that the gateway's hash divides them."""
    x = np.random.default_rng(_SEED).random((_NUM_BODIES, 1, _NUM_INPUTS)).round(6).astype(np.float32)
    return [infer_body("input", rows, f"request-{number}") for number, rows in enumerate(x)]


@dataclass(frozen=True)
class _Server:
    process: psutil.Popen
    port: int

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def _server(command: list[str]) -> Iterator[_Server]:
    with psutil.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise ServiceUnavailableError(f"{' '.join(command[1:3])} ended with code {process.wait()}")
            port = urlsplit(url).port
            assert port is not None
            yield _Server(process, port)
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def _client(server: _Server, bodies: list[bytes]) -> Iterator["_Client"]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield _Client(connection, [_http_request(body) for body in bodies])


def _http_request(body: bytes) -> bytes:
    head = (
        f"POST /v2/models/{_MODEL_NAME}/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Client:
    """One keep-alive connection on a plain socket, which costs less than any HTTP library."""

    def __init__(self, connection: socket.socket, requests: list[bytes]) -> None:
        self._connection, self._requests = connection, requests

    def send(self, number: int) -> int:
        """Send a request, read its whole answer and return the status."""
        self._connection.sendall(self._requests[number % len(self._requests)])
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._receive()
        return int(head.split(b" ", 2)[1])

    def warm_up(self) -> None:
        """Wait until the server has its model, then send until nothing is new to it."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while (status := self.send(0)) != 200:
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(f"a server still answers {status} after {_READY_WITHIN_S:.0f} s")
            time.sleep(0.1)
        for number in range(_WARM_UPS):
            self.send(number)

    def round(self) -> np.ndarray:
        """Return the seconds [_REQUESTS_PER_ROUND] that the requests took.

        Raises:
            ServiceUnavailableError: one was not answered with 200; a rate with failures means nothing.
        """
        seconds = np.empty(_REQUESTS_PER_ROUND)
        for number in range(_REQUESTS_PER_ROUND):
            started = time.perf_counter()
            status = self.send(number)
            seconds[number] = time.perf_counter() - started
            if status != 200:
                raise ServiceUnavailableError(f"a server answered {status} during the measurement")
        return seconds

    def _receive(self) -> bytes:
        data = self._connection.recv(65536)
        if not data:
            raise ServiceUnavailableError("a server closed the connection during the measurement")
        return data


def _rounds(clients: dict[str, _Client], servers: dict[str, _Server]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return each server's mean seconds for a request [rounds], and its CPU seconds for one over all rounds."""
    rng = np.random.default_rng(_SEED)
    means: dict[str, list[float]] = {name: [] for name in clients}
    before = {name: server.cpu_seconds() for name, server in servers.items()}
    names, deadline = list(clients), time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        for index in rng.permutation(len(names)):
            means[names[index]].append(float(np.mean(clients[names[index]].round())))
    num_requests = len(means[_GATEWAY]) * _REQUESTS_PER_ROUND
    cpu = {name: (server.cpu_seconds() - before[name]) / num_requests for name, server in servers.items()}
    return {name: np.array(values) for name, values in means.items()}, cpu


def _figures(seconds: dict[str, np.ndarray], cpu_seconds: dict[str, float]) -> Iterator[Figure]:
    for bare in (_ASGI, _STARLETTE):
        yield ratio(f"request rate: {_GATEWAY} / {bare}", seconds[bare], seconds[_GATEWAY])
        yield figure(f"CPU time of a request: {_GATEWAY} / {bare}", RATIO, [cpu_seconds[_GATEWAY] / cpu_seconds[bare]])
    yield ratio(f"request rate: {_STARLETTE} / {_ASGI}", seconds[_ASGI], seconds[_STARLETTE])
    for name, values in seconds.items():
        yield figure(f"time of a request: {name}", "ms", values * 1e3, supporting=True)


@contextmanager
def _on_core(position: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on one core; without effect on a single core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[position]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
