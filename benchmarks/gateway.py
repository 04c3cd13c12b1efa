"""What the gateway adds to a request, against servers that do less, and what its options are worth.

All servers share one core and the client has another; they take turns by short rounds, so an idle
server costs the busy one nothing, and whatever slows the machine slows all.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import onnx

from benchmarks.contenders import Contender, binary, open_inference, peers, plain_servers, save_for_mlflow
from benchmarks.http_load import REQUESTS_PER_ROUND, Client, alternate, saturated_rate
from benchmarks.onnx_models import convolutional, dense
from benchmarks.result import RATIO, Figure, Findings, figure, ratio
from benchmarks.servers import Server, client_core, serving
from tasks.adapters.local_store import write_atomically
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ServiceUnavailableError
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.evaluation.onnx_flops import count_flops
from tasks.runtime.services import connect

SECONDS_VARIABLE = "BENCHMARK_SECONDS"
"""Environment variable: seconds of the main comparison, 60 if not given; the others take a part of it."""
_NUM_INPUTS, _NUM_BODIES, _BATCH = 784, 64, 16
_SEED = 0
_CACHE_BYTES = 2**24
_NUM_CONNECTIONS, _BATCH_ROWS = 64, 32
_NUM_STARTS = 3
_LEAST_TURN_S = 0.3

_GATEWAY, _ASGI = "gateway", "bare ASGI"
_CACHED = "gateway, answer cached"


@dataclass
class _Seen:
    """What was measured of one contender."""

    seconds: list[float] = field(default_factory=list)
    """Mean of a request, for each round."""
    cpu_seconds: list[float] = field(default_factory=list)
    """Processor time of a request, for each round."""
    resident_bytes: int = 0
    start_seconds: float = 0.0
    """From the start of the process to its first answer."""


def measure() -> Findings:
    """Send the same requests to all servers in turns, then measure the gateway's options against itself."""
    seconds = float(os.environ.get(SECONDS_VARIABLE, "60"))
    home = connect().settings.home
    model, path = convolutional(_SEED), home / "model.onnx"
    write_atomically(path, model)
    save_for_mlflow(model, home / "mlflow-model")
    _publish("digits", model, convolutional(_SEED + 1))
    _publish("alone", model)
    _publish("dense", dense(_SEED))
    rows = _rows(1)
    ours = [
        Contender(_GATEWAY, _gateway(), open_inference(rows)),
        Contender(_CACHED, _gateway("--cache-bytes", str(_CACHE_BYTES)), open_inference(rows, "alone")),
    ]
    others, absent = peers(path, rows)
    seen = _compare([*ours, *plain_servers(path, home / "mlflow-model", rows)], seconds)
    figures = list(_against_all(seen))
    for peer in others:  # one after the other: some are busy when idle
        try:
            figures += _against_all(_compare([ours[0], peer], seconds / 4), only=peer.name)
        except (ServiceUnavailableError, OSError) as error:
            absent.append(f"{peer.name} ({error})")
    figures += [*_forms(seconds / 4), *_joined(seconds / 2), _starts()]
    mflop = count_flops(onnx.load_model_from_string(model), (_NUM_INPUTS,)) / 1e6
    return Findings(
        question="How much of a bare server's rate does the gateway keep, and what are its options worth?",
        setup=_setup(mflop, absent),
        seeds={"weights and rows": _SEED},
        figures=tuple(figures),
    )


def _setup(mflop: float, absent: Sequence[str]) -> str:
    skipped = f" Not measured, since no environment held them (--peers) or they did not answer: {', '.join(absent)}."
    return (
        f"One row of {_NUM_INPUTS} floats as JSON to a model of {mflop:.1f} MFLOP, one request at a time; "
        "servers on one core with one onnxruntime thread each, client on another. The gateway divides traffic 50:50 "
        "between two such models, with its checks, metrics and prediction log on; the others have one model. FastAPI "
        "and MLflow's server check types; none logs or counts. Joined requests: "
        f"{_NUM_CONNECTIONS} connections to a net of dense layers, at most {_BATCH_ROWS} rows a run. Memory is of the "
        "process with its children after the load, what they share counted for each. Start: from the start of the "
        f"process to the first answer.{skipped if absent else ''}"
    )


def _publish(model_name: str, champion: bytes, challenger: bytes | None = None) -> None:
    services = connect()
    models = [model for model in (champion, challenger) if model is not None]
    arms = [Arm(digest=services.artifacts.put(model).digest, version=n) for n, model in enumerate(models, 1)]
    signature = ModelSignature(
        task="classification",
        input_shape=(_NUM_INPUTS,),
        input_dtype="float32",
        class_names=tuple(str(digit) for digit in range(10)),
    )
    route = Route(model_name=model_name, signature=signature, champion=arms[0])
    if challenger is not None:
        divided = {"challenger": arms[1], "weight": 50.0, "salt": "benchmark", "rollout_id": "benchmark"}
        route = route.model_copy(update=divided)
    RouteStore(services.documents, services.acknowledgements).publish(route, 0)


def _gateway(*options: str) -> list[str]:
    settings = connect().settings
    folders = ["--store", str(settings.store_root), "--traffic", str(settings.traffic_root)]
    return [sys.executable, "-m", "infra.gateway", "--port", "0", *folders, *options]


def _rows(num_rows: int) -> np.ndarray:
    """Return rows [bodies, num_rows, inputs] as people write them: six digits."""
    rng = np.random.default_rng(_SEED)
    return rng.random((_NUM_BODIES, num_rows, _NUM_INPUTS)).round(6).astype(np.float32)


def _compare(contenders: Sequence[Contender], seconds: float) -> dict[str, _Seen]:
    """Let all answer in turns for that long."""
    seen = {contender.name: _Seen() for contender in contenders}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        clients: dict[str, Client] = {}
        stack.enter_context(client_core())
        for one in contenders:
            server = servers[one.name] = stack.enter_context(serving(one.name, one.command))
            clients[one.name] = Client(server.port, one.requests)
            seen[one.name].start_seconds = clients[one.name].warm_up() - server.started
        for name in alternate(list(clients), seconds, _SEED):
            before = servers[name].cpu_seconds()
            seen[name].seconds.append(clients[name].round())
            seen[name].cpu_seconds.append((servers[name].cpu_seconds() - before) / REQUESTS_PER_ROUND)
        for name, server in servers.items():
            seen[name].resident_bytes = server.resident_bytes()
    return seen


def _against_all(seen: dict[str, _Seen], only: str | None = None) -> Iterator[Figure]:
    gateway = seen[_GATEWAY]
    for name, one in seen.items():
        if only is not None and name != only:
            continue
        if name != _GATEWAY:
            yield _named(ratio("request rate: gateway / it", one.seconds, gateway.seconds), name)
            yield _named(ratio("processor time: it / gateway", one.cpu_seconds, gateway.cpu_seconds), name)
        yield figure("processor time of a request", "µs", np.array(one.cpu_seconds) * 1e6, subject=name)
        yield figure("memory", "MiB", [one.resident_bytes / 2**20], subject=name)
        yield figure("start", "s", [one.start_seconds], subject=name)
        yield figure("time of a request", "ms", np.array(one.seconds) * 1e3, subject=name, supporting=True)
    if only is None:
        yield ratio("request rate: cached answer / bare ASGI", seen[_ASGI].seconds, seen[_CACHED].seconds)
        yield ratio("processor time: bare ASGI / cached answer", seen[_ASGI].cpu_seconds, seen[_CACHED].cpu_seconds)
        yield ratio("request rate: cached answer / gateway", gateway.seconds, seen[_CACHED].seconds)


def _forms(seconds: float) -> list[Figure]:
    """Compare bytes with JSON, at one row and at several."""
    bodies = {
        (rows, form): made(_rows(rows))
        for rows in (1, _BATCH)
        for form, made in (("JSON", open_inference), ("bytes", binary))
    }
    times: dict[tuple[int, str], list[float]] = {key: [] for key in bodies}
    with ExitStack() as stack:
        stack.enter_context(client_core())
        server = stack.enter_context(serving(_GATEWAY, _gateway()))
        clients = {key: Client(server.port, requests) for key, requests in bodies.items()}
        for one in clients.values():
            one.warm_up()
        for key in alternate(list(clients), seconds, _SEED):
            times[key].append(clients[key].round())
    return [
        ratio(f"request rate: bytes / JSON, {rows} rows a request", times[rows, "JSON"], times[rows, "bytes"])
        for rows in (1, _BATCH)
    ]


def _joined(seconds: float) -> list[Figure]:
    """Compare joined requests with single runs, on many connections and on one, where joining only waits."""
    commands = {"joined": _gateway("--batch-rows", str(_BATCH_ROWS)), "one by one": _gateway()}
    requests = open_inference(_rows(1), "dense")
    rates: dict[tuple[int, str], list[float]] = {}
    costs: dict[tuple[int, str], list[float]] = {}
    with ExitStack() as stack:
        stack.enter_context(client_core())
        servers = {name: stack.enter_context(serving(name, command)) for name, command in commands.items()}
        for server in servers.values():
            Client(server.port, requests).warm_up()
        turn = max(_LEAST_TURN_S, seconds / (4 * 10))  # ten blocks of each of the four
        for name in alternate(list(servers), 0.0, _SEED):
            for num_connections in (_NUM_CONNECTIONS, 1):
                before, started = servers[name].cpu_seconds(), time.perf_counter()
                rate = saturated_rate(servers[name].port, requests, num_connections, turn)
                num_answers = rate * (time.perf_counter() - started)
                rates.setdefault((num_connections, name), []).append(rate)
                costs.setdefault((num_connections, name), []).append(
                    (servers[name].cpu_seconds() - before) / num_answers
                )
    many = [float(np.mean(costs[_NUM_CONNECTIONS, name])) for name in commands]
    return [
        *(
            ratio(f"request rate, {count} connections: joined / one by one", *(rates[count, name] for name in commands))
            for count in (_NUM_CONNECTIONS, 1)
        ),
        figure(f"processor time, {_NUM_CONNECTIONS} connections: joined / one by one", RATIO, [many[0] / many[1]]),
    ]


def _starts() -> Figure:
    """Start the gateway again and again."""
    requests = open_inference(_rows(1))
    seconds = []
    for _ in range(_NUM_STARTS):
        with client_core(), serving(_GATEWAY, _gateway()) as server:
            seconds.append(Client(server.port, requests).warm_up() - server.started)
    return figure("start of the gateway, to its first answer", "s", seconds)


def _named(one: Figure, subject: str) -> Figure:
    return one.model_copy(update={"subject": subject})
