import hashlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import SecretStr

from infra.gateway.config import GatewayConfig
from infra.gateway.server import GatewayServer
from tasks.adapters.gateway_client import GatewayClient
from tasks.adapters.local_store import LocalArtifacts, LocalDocuments
from tasks.adapters.replay import replay
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.errors import DataError, ModelError, ServiceUnavailableError
from tasks.contracts.route import Arm, ModelSignature, Route

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype(np.float32)
WEIGHTS = RNG.normal(size=(4, 3)).astype(np.float32)
Y = (X @ WEIGHTS).argmax(axis=1)
METADATA = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}


class FakeGateway(ThreadingHTTPServer):
    """Answers infer with `answer(number, document)`: a (status, JSON) pair, or None to drop the connection."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests, self.feedback, self.lock = [], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet a reply; two would wait for each other's acknowledgement

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._reply(200 if self.path == "/v2/models/m" else 404, METADATA)

    def do_POST(self):
        document = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            seen = self.server.feedback if self.path.endswith("/feedback") else self.server.requests
            number = len(seen)
            seen.append(document)
        if seen is self.server.feedback:
            return self._reply(200, {})
        answer = self.server.answer(number, document)
        if answer is None:
            self.close_connection = True
            return None
        return self._reply(*answer)

    def _reply(self, status, document):
        body = orjson.dumps(document)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Stillhouse-Arm", "champion")
        self.send_header("X-Stillhouse-Served-By", "champion")
        self.end_headers()
        self.wfile.write(body)


def right_answer(number, document):
    tensor = document["inputs"][0]
    logits = np.array(tensor["data"]).reshape(tensor["shape"]) @ WEIGHTS
    return 200, {"outputs": [{"name": "y", "shape": logits.shape, "data": logits.ravel().tolist()}]}


@pytest.fixture
def fake():
    started = []

    def start(answer=right_answer):
        server = FakeGateway(answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def test_replay_sends_every_row_equally_often_with_its_label(fake):
    server = fake()
    result = replay(X, Y, server.url, "m", requests=100, concurrency=4, seed=1)
    assert (result.sent, result.failed, result.feedback_sent, result.feedback_failed) == (100, 0, 100, 0)
    sent = Counter(np.float32(request["inputs"][0]["data"]).tobytes() for request in server.requests)
    assert sent == Counter({row.tobytes(): 2 for row in X})
    labels = {feedback["id"]: feedback["labels"] for feedback in server.feedback}
    rows = {request["id"]: np.float32(request["inputs"][0]["data"]) for request in server.requests}
    assert all(labels[name] == [(rows[name] @ WEIGHTS).argmax()] for name in rows)
    assert result.arms["champion"].accuracy == 1.0
    assert 0 < result.latency_ms["p50"] <= result.latency_ms["p95"] <= result.latency_ms["p99"]


def test_replay_sends_the_same_rows_in_the_same_order_when_the_seed_is_the_same(fake):
    orders = []
    for seed in (1, 1, 2):
        server = fake()
        replay(X, Y, server.url, "m", requests=20, rows_per_request=3, concurrency=1, seed=seed)
        orders.append([request["inputs"][0]["data"] for request in server.requests])
    assert orders[0] == orders[1] != orders[2]


def test_replay_counts_every_failure_with_its_reason(fake):
    def flaky(number, document):
        if number % 10 == 1:
            return 500, {"error": "no"}
        if number % 10 == 2:
            return None
        if number % 10 == 3:
            return 200, {"outputs": []}
        if number % 10 == 4:
            return 200, {"outputs": [{"shape": [2, 3], "data": [0] * 6}]}
        return right_answer(number, document)

    result = replay(X, Y, fake(flaky).url, "m", requests=50, concurrency=1)
    assert (result.sent, result.failed, result.wrong_shape) == (50, 20, 5)
    assert result.failures == {"HTTP 500": 5, "RemoteDisconnected": 5, "unreadable answer": 5, "wrong shape": 5}
    assert result.arms["champion"].requests == 30
    assert result.feedback_sent == 30


def test_replay_stops_when_it_is_told_to(fake):
    server = fake()
    result = replay(X, Y, server.url, "m", requests=None, concurrency=2, stop=lambda: len(server.requests) >= 30)
    assert 30 <= result.sent <= 32


def test_replay_keeps_the_rate(fake):
    started = time.perf_counter()
    result = replay(X, Y, fake().url, "m", requests=21, rate=100, concurrency=2)
    assert time.perf_counter() - started >= 0.2
    assert result.sent == 21


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_replay_sends_feedback_for_the_wanted_share(fake, share, low, high):
    result = replay(X, Y, fake().url, "m", requests=200, feedback_share=share)
    assert low <= result.feedback_sent <= high


def test_replay_reports_rmse_when_the_labels_are_numbers(fake):
    def constant(number, document):
        rows = document["inputs"][0]["shape"][0]
        return 200, {"outputs": [{"shape": [rows, 1], "data": [2.0] * rows}]}

    labels = np.where(np.arange(50) % 2, 1.0, 5.0).astype(np.float32)
    result = replay(X, labels, fake(constant).url, "m", requests=50)
    assert result.arms["champion"].rmse == pytest.approx(np.sqrt((1 + 9) / 2))
    assert result.arms["champion"].accuracy is None


def test_replay_refuses_rows_that_do_not_fit(fake):
    server = fake()
    with pytest.raises(DataError, match=r"\(5,\).*\(4,\)"):
        replay(np.zeros((3, 5)), np.zeros(3, int), server.url, "m", requests=1)
    with pytest.raises(DataError, match="one label for every row"):
        replay(X, Y[:-1], server.url, "m", requests=1)
    with pytest.raises(ModelError):
        replay(X, Y, server.url, "other", requests=1)
    with pytest.raises(ServiceUnavailableError):
        replay(X, Y, "http://127.0.0.1:1", "m", requests=1)


@pytest.fixture
def gateway(tmp_path):
    """A real gateway with a right champion and a challenger that is always wrong."""

    def model(weights):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "model",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(weights, "w")],
        )
        opset = helper.make_opsetid("", 17)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()

    artifacts = LocalArtifacts(tmp_path / "store")
    route = Route(
        model_name="m",
        signature=ModelSignature(
            task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c")
        ),
        champion=Arm(digest=artifacts.put(model(WEIGHTS)).digest, version=1),
        challenger=Arm(digest=artifacts.put(model(-WEIGHTS)).digest, version=2),
        weight=40,
        rollout_id="r",
    )
    LocalDocuments(tmp_path / "store").append("routes/m", route.canonical_json(), 0)
    tokens = tmp_path / "tokens.json"
    tokens.write_bytes(orjson.dumps({role: [hashlib.sha256(b"t").hexdigest()] for role in ("infer", "feedback")}))
    config = GatewayConfig(store=tmp_path / "store", traffic=tmp_path / "traffic", port=0, replica="g", tokens=tokens)
    server = GatewayServer(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    with GatewayClient(server.url) as client:
        deadline = time.monotonic() + 15
        while not client.ready("m"):
            assert time.monotonic() < deadline

    def stop():
        server.stop()
        thread.join(timeout=20)

    yield server.url, stop
    stop()


def test_what_replay_saw_is_what_the_log_says_when_the_gateway_is_real(gateway, tmp_path):
    url, stop = gateway
    result = replay(X, Y, url, "m", requests=300, rows_per_request=2, concurrency=3, token=SecretStr("t"))
    stop()
    assert (result.sent, result.failed, result.feedback_failed) == (300, 0, 0)
    assert result.arms["champion"].accuracy == 1.0
    assert result.arms["challenger"].accuracy == 0.0
    (step,) = TrafficLog(tmp_path / "traffic").observe("m", "r", {1: 40.0}).steps
    for name, arm in (("champion", step.champion), ("challenger", step.challenger)):
        seen = result.arms[name]
        assert (arm.requests, arm.rows, arm.labelled) == (seen.requests, seen.rows, seen.rows)
        assert arm.correct == round(seen.accuracy * seen.rows)
        assert arm.errors == 0
        assert len(arm.latencies_ms) == seen.requests
