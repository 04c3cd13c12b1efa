"""Two gateways under continuous traffic while models are promoted, rolled back and gateways restarted.

A client goes round the replicas as a load balancer would: it asks each whether it is ready, and tries the other one
when a connection is refused. An answer is never asked for twice.
"""

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.adapters.gateway_client import infer_body
from tasks.adapters.route_store import RouteStore
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.registration import CHALLENGER_ALIAS, DIGEST_TAG, SIGNATURE_TAG
from tasks.contracts.route import ModelSignature, Route, assigned_arm
from tasks.decisions.rollout import RolloutPolicy
from tasks.stages.promoting import bootstrap
from tasks.stages.rolling import advance, begin_rollout, follow_state, observe, settle
from tasks.stages.rollout_record import GATE_REPORT_TAG, RolloutRecord

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "tests" / "stages"))
from promotion_world import NOW, World  # noqa: E402 - the world of the promotion's tests

NUM_INPUTS, NUM_CLASSES = 8, 4
SIGNATURE = ModelSignature(
    task="classification", input_shape=(NUM_INPUTS,), input_dtype="float32", class_names=tuple("abcd")
)
LIMITS = {"min_rows_per_arm": 60, "accuracy_margin": 0.1, "max_latency_ratio": 20.0}
REQUESTS_PER_SECOND = 60.0
"""Of each of the two clients."""


def model(weight: np.ndarray, *, failing: bool = False) -> bytes:
    """Logits are x · weight; with `failing` a row whose first value is 1 or more ends in an error."""
    constants = {"weight": weight.astype(np.float32), "table": np.zeros(1, np.float32), "first": np.array([0])}
    nodes = [helper.make_node("MatMul", ["input", "weight"], ["output"])]
    if failing:
        nodes = [
            helper.make_node("MatMul", ["input", "weight"], ["product"]),
            helper.make_node("Gather", ["input", "first"], ["column"], axis=1),
            helper.make_node("Cast", ["column"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["bias"], axis=0),
            helper.make_node("Add", ["product", "bias"], ["output"]),
        ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", NUM_INPUTS])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", NUM_CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(made.SerializeToString())


@dataclass
class Replica:
    """One gateway process on a port that it keeps over restarts."""

    name: str
    root: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--store", str(self.root), "--traffic", str(self.root / "traffic"), "--port", str(self.port)]
        settings = self.root / f"{self.name}.json"
        settings.write_text(json.dumps({"drain_grace_s": 1.0}))  # clients look five times a second who is ready
        with (self.root / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.gateway", *options, "--config", str(settings), "--replica", self.name,
                 "--end-with-stdin"],
                cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        poll(lambda: ready(self.url), f"{self.name} serves")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/models/digits/ready", trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def poll(condition: Any, what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class Clients:
    """Two threads that send one row a request until told to stop, with the label as feedback."""

    replicas: list[Replica]
    weight: np.ndarray
    stopped: threading.Event = field(default_factory=threading.Event)
    replies: list[tuple[str, str, np.ndarray, httpx.Response]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    unready: frozenset[int] = frozenset()
    """Replicas that said at the last look that they take no requests."""

    @contextmanager
    def sending(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._send, args=(number,)) for number in range(2)]
        threads.append(threading.Thread(target=self._look))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _look(self) -> None:
        while not self.stopped.wait(0.2):
            self.unready = frozenset(number for number, one in enumerate(self.replicas) if not ready(one.url))

    def _send(self, number: int) -> None:
        generator = np.random.default_rng(number)
        turn = itertools.cycle(range(len(self.replicas)))
        clients = [httpx.Client(base_url=one.url, timeout=30.0, trust_env=False) for one in self.replicas]
        due = time.monotonic()
        for count in itertools.count():
            if self.stopped.is_set():
                break
            due += 1.0 / REQUESTS_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            x = generator.normal(size=(1, NUM_INPUTS)).astype(np.float32)
            label = (
                int((x @ self.weight).argmax()) if generator.random() > 0.05 else int(generator.integers(NUM_CLASSES))
            )
            request_id, key = f"{number}-{count}", f"user-{generator.integers(5000)}"
            first = next(turn)
            order = sorted((first, 1 - first), key=self.unready.__contains__)
            self.counts["sent"] += 1
            reply = self._post(clients, order, "infer", infer_body("input", x, request_id), {"X-Stillhouse-Key": key})
            if reply is not None:
                self.replies.append((request_id, key, x, reply))
                feedback = f'{{"id": "{request_id}", "labels": [{label}]}}'.encode()
                self._post(clients, order, "feedback", feedback, {})
        for client in clients:
            client.close()

    def _post(
        self, clients: list[httpx.Client], order: list[int], what: str, body: bytes, headers: dict[str, str]
    ) -> httpx.Response | None:
        for number in order:
            try:
                reply = clients[number].post(f"/v2/models/digits/{what}", content=body, headers=headers)
            except httpx.ConnectError:
                self.counts["refused connections, sent to the other replica"] += 1
                continue
            except httpx.TransportError as error:
                self.failures[f"{what}: {type(error).__name__} {error}"] += 1
                return None
            if reply.status_code != httpx.codes.OK:
                self.failures[f"{what}: HTTP {reply.status_code} {reply.text}"] += 1
                return None
            return reply
        self.failures[f"{what}: both replicas refuse"] += 1
        return None


@dataclass
class Site:
    """A world with two gateways, a champion, a good and a broken challenger."""

    world: World
    replicas: list[Replica]
    models: dict[str, bytes]
    weight: np.ndarray

    @property
    def routes(self) -> RouteStore:
        return RouteStore(self.world.services.documents, self.world.services.acknowledgements)

    def roll_out(self, version: int, steps: tuple[int, ...], at_step: dict[int, Any]) -> RolloutRecord:
        """Drive a rollout to its end; `at_step` holds what is done to the gateways once, at a step."""
        policy = RolloutPolicy(steps=steps, **LIMITS)
        services = self.world.services
        services.registry.set_alias("digits", CHALLENGER_ALIAS, version)
        record = begin_rollout(services, "digits", policy, NOW)
        log = TrafficLog(self.world.root / "traffic")
        for _ in range(90):
            record = follow_state(services, record)
            assert self.routes.wait_until_served("digits", record.newest_route, timeout_s=60) == ""
            at_step.pop(record.state.step, lambda: None)()
            time.sleep(1.0)
            record = advance(services, record, observe(services, log, record), NOW)
            if record.state.finished:
                settle(services, record, "test", NOW)
                newest = self.routes.current("digits")
                self.routes.wait_for_acknowledgement("digits", newest.version, timeout_s=60, num_replicas=2)
                return record
        raise AssertionError(f"the rollout does not end: {record.state.latest}")

    def restart_all(self) -> None:
        """Restart one gateway after the other, as a rolling update does."""
        for replica in self.replicas:
            assert replica.stop() == 0
            replica.start()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    world = World.create(tmp_path)
    weight = np.random.default_rng(7).normal(size=(NUM_INPUTS, NUM_CLASSES))
    made = {1: model(weight), 2: model(1.5 * weight), 3: model(np.roll(weight, 1, axis=1), failing=True)}
    models = {}
    for version, data in made.items():
        digest = world.services.artifacts.put(data).digest
        models[digest] = data
        tags = {DIGEST_TAG: digest, SIGNATURE_TAG: SIGNATURE.model_dump_json()}
        world.edit_tags(version, tags | {GATE_REPORT_TAG: world.report(version, candidate=digest)})
    bootstrap(world.services, "digits", 1, "flow", "first", NOW)
    replicas = [Replica(name, tmp_path, free_port()) for name in ("gw-1", "gw-2")]
    try:
        for replica in replicas:
            replica.start()
        yield Site(world, replicas, models, weight)
    finally:
        for replica in replicas:
            if replica.process is not None and replica.process.poll() is None:
                replica.process.kill()
                replica.process.wait()


def wrong_arms(site: Site, clients: Clients) -> list[str]:
    """Replies of another arm or model than the hash and the route of the reply's version say."""
    folder = site.world.root / "documents" / "routes" / "digits"
    routes = {int(path.stem): Route.model_validate_json(path.read_bytes()) for path in folder.glob("*.json")}
    wrong = []
    for request_id, key, _, reply in clients.replies:
        head = reply.headers
        route = routes[int(head["x-stillhouse-route-version"])]
        served = route.challenger if head["x-stillhouse-served-by"] == "challenger" else route.champion
        if head["x-stillhouse-arm"] != assigned_arm(route, key) or served.digest != head["x-stillhouse-model-digest"]:
            wrong.append(f"{request_id}: {dict(head)}")
    return wrong


def wrong_answers(site: Site, clients: Clients) -> list[str]:
    """Replies that differ from what onnxruntime gives for the model that the reply names."""
    sessions = {digest: onnxruntime.InferenceSession(data) for digest, data in site.models.items()}
    wrong = []
    for request_id, _, x, reply in clients.replies:
        (expected,) = sessions[reply.headers["x-stillhouse-model-digest"]].run(None, {"input": x})
        answered = np.asarray(reply.json()["outputs"][0]["data"], np.float32).reshape(expected.shape)
        if reply.json()["id"] != request_id or not np.allclose(answered, expected, rtol=1e-5, atol=1e-6):
            wrong.append(request_id)
    return wrong


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_fails_or_is_answered_wrongly_while_models_and_gateways_change(site: Site) -> None:
    clients = Clients(site.replicas, site.weight)
    with clients.sending():
        good = site.roll_out(2, (0, 20, 50), {1: site.restart_all})
        broken = site.roll_out(3, (20, 50), {})  # no shadow first, so that callers meet it
        site.restart_all()
        time.sleep(2.0)
    assert [replica.stop() for replica in site.replicas] == [0, 0]

    answered = Counter(
        f"{reply.headers['x-stillhouse-arm']} by {reply.headers['x-stillhouse-served-by']}"
        for *_, reply in clients.replies
    )
    versions = {int(reply.headers["x-stillhouse-route-version"]) for *_, reply in clients.replies}
    print(f"\n{dict(clients.counts)}, failed {sum(clients.failures.values())}; {dict(answered)}")
    print(f"route versions met {sorted(versions)}; {good.state.tick} and {broken.state.tick} ticks")
    assert (good.state.status, broken.state.status) == ("promoted", "rolled_back")
    assert site.world.state() == {"ledger": [1, 2], "aliases": {"champion": 2, "previous": 1}, "route": (2, None)}
    assert clients.failures == Counter()
    assert wrong_arms(site, clients) == []
    assert wrong_answers(site, clients) == []
    assert answered["challenger by challenger"] > 100
    assert answered["challenger by champion"] > 0
    logged = TrafficLog(site.world.root / "traffic").predictions("digits").to_pandas()
    assert sorted(logged[~logged["shadow"]]["request_id"]) == sorted(one for one, *_ in clients.replies)
