import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper, numpy_helper

from infra.gateway.config import GatewayConfig
from infra.gateway.server import GatewayServer
from tasks.adapters.local_store import LocalArtifacts, LocalDocuments
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.route import Arm, ModelSignature, Route, RouteAcknowledgement

NUM_INPUTS, NUM_CLASSES = 4, 3
SIGNATURE = ModelSignature(
    task="classification", input_shape=(NUM_INPUTS,), input_dtype="float32", class_names=("a", "b", "c")
)


def eventually(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """Poll until `condition` holds, and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.01)


def _model(nodes: list[Any], constants: dict[str, np.ndarray], num_outputs: int = NUM_CLASSES) -> bytes:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", NUM_INPUTS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", num_outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return model.SerializeToString()


@dataclass(frozen=True)
class Models:
    """ONNX files whose answers are known."""

    weights: np.ndarray = field(
        default_factory=lambda: np.random.default_rng(0).normal(size=(NUM_INPUTS, NUM_CLASSES)).astype(np.float32)
    )

    def linear(self, scale: float = 1.0) -> bytes:
        """Logits are scale · x · weights."""
        return _model([helper.make_node("MatMul", ["x", "w"], ["logits"])], {"w": self.weights * np.float32(scale)})

    def expected(self, x: np.ndarray, scale: float = 1.0) -> np.ndarray:
        return x.astype(np.float32) @ (self.weights * np.float32(scale))

    def raising(self) -> bytes:
        """Fails at run time on rows whose first value is 1 or more: an index beyond a table of one."""
        nodes = [
            helper.make_node("Gather", ["x", "column"], ["first"], axis=1),
            helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["bias"], axis=0),
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
        ]
        table = np.zeros(1, np.float32)
        return _model(nodes, {"column": np.array([0], np.int64), "table": table, "w": self.weights})

    def dividing(self) -> bytes:
        """Gives infinities on rows whose first value is 0."""
        nodes = [
            helper.make_node("Gather", ["x", "index"], ["first"], axis=1),
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Div", ["product", "first"], ["logits"]),
        ]
        return _model(nodes, {"index": np.array([0], np.int64), "w": self.weights})

    def endless(self) -> bytes:
        """Loops 10⁹ times the first row's first value."""
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["going"], ["going_on"]),
                helper.make_node("Add", ["carried", "carried"], ["doubled"]),
                helper.make_node("Sub", ["doubled", "carried"], ["next"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["N", NUM_CLASSES]),
            ],
            [
                helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", NUM_CLASSES]),
            ],
        )
        nodes = [
            helper.make_node("Gather", ["x", "origin"], ["row"], axis=0),
            helper.make_node("Gather", ["row", "origin"], ["first"], axis=0),
            helper.make_node("Mul", ["first", "billion"], ["many"]),
            helper.make_node("Cast", ["many"], ["turns"], to=TensorProto.INT64),
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Loop", ["turns", "", "product"], ["logits"], body=body),
        ]
        constants = {"origin": np.array(0, np.int64), "billion": np.array(1e9, np.float32), "w": self.weights}
        return _model(nodes, constants)

    def dynamic(self) -> bytes:
        """Rounds its inputs to 256 steps of the whole batch's range, as dynamic quantization does."""
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["quantized", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["rounded"]),
            helper.make_node("MatMul", ["rounded", "w"], ["logits"]),
        ]
        return _model(nodes, {"w": self.weights})

    def fixed_batch(self) -> bytes:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["logits"])],
            "model",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, NUM_INPUTS])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, NUM_CLASSES])],
            [numpy_helper.from_array(self.weights, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        return model.SerializeToString()

    def price(self) -> bytes:
        """One number a row: the sum of its values."""
        weights = np.ones((NUM_INPUTS, 1), np.float32)
        return _model([helper.make_node("MatMul", ["x", "w"], ["logits"])], {"w": weights}, 1)

    def wide(self) -> bytes:
        """Gives five outputs where the signature says three."""
        weights = np.ones((NUM_INPUTS, 5), np.float32)
        return _model([helper.make_node("MatMul", ["x", "w"], ["logits"])], {"w": weights}, 5)


@dataclass
class Site:
    """A store and a traffic folder, with the hands that a rollout would have."""

    root: Path
    name: str = "digits"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def traffic(self) -> Path:
        return self.root / "traffic"

    def put(self, model: bytes) -> str:
        return LocalArtifacts(self.store).put(model).digest

    def route(self, champion: str, challenger: str | None = None, **fields: Any) -> int:
        """Append a route and return its version."""
        route = Route(
            model_name=self.name,
            signature=SIGNATURE,
            champion=Arm(digest=champion, version=1),
            challenger=Arm(digest=challenger, version=2) if challenger else None,
            **fields,
        )
        return self.append_document(route.canonical_json())

    def append_document(self, data: bytes) -> int:
        documents = LocalDocuments(self.store)
        latest = documents.latest(f"routes/{self.name}")
        return documents.append(f"routes/{self.name}", data, latest.version if latest else 0).version

    def acknowledgement(self, replica: str = "test") -> RouteAcknowledgement | None:
        path = self.store / "acknowledgements" / self.name / f"{replica}.json"
        return RouteAcknowledgement.model_validate_json(path.read_bytes()) if path.exists() else None

    def wait_for(self, version: int, replica: str = "test") -> RouteAcknowledgement:
        def current() -> RouteAcknowledgement | None:
            found = self.acknowledgement(replica)
            return found if found and found.route_version == version else None

        return eventually(current)

    def log(self) -> list[dict[str, Any]]:
        return TrafficLog(self.traffic).predictions(self.name).to_pylist()

    def labels(self) -> list[dict[str, Any]]:
        return TrafficLog(self.traffic).feedback(self.name).to_pylist()


@dataclass
class Gateway:
    """A running gateway, and a client of it."""

    site: Site
    server: GatewayServer
    http: httpx.Client
    thread: threading.Thread

    @property
    def path(self) -> str:
        return f"/v2/models/{self.site.name}/infer"

    def infer(self, rows: np.ndarray, request_id: str | None = None, key: str | None = None) -> httpx.Response:
        return self.http.post(
            self.path, content=body_of(rows, request_id), headers={"X-Stillhouse-Key": key} if key else {}
        )

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()


def body_of(rows: np.ndarray, request_id: str | None = None, name: str = "x") -> bytes:
    tensor = {"name": name, "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return orjson.dumps({"inputs": [tensor]} | ({"id": request_id} if request_id else {}))


@pytest.fixture(scope="session")
def models() -> Models:
    return Models()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Gateway]]:
    """Start a gateway on a free port; it polls fast, so that tests do not wait."""
    running: list[Gateway] = []

    def start_gateway(client_options: dict[str, Any] | None = None, **options: Any) -> Gateway:
        values: dict[str, Any] = {
            "store": site.store,
            "traffic": site.traffic,
            "port": 0,
            "replica": "test",
            "poll_interval_s": 0.02,
            "flush_interval_s": 0.05,
        }
        server = GatewayServer(GatewayConfig(**(values | options)))
        thread = threading.Thread(target=server.run)
        thread.start()
        client = httpx.Client(base_url=server.url, timeout=20, trust_env=False, **(client_options or {}))
        gateway = Gateway(site, server, client, thread)
        running.append(gateway)
        eventually(lambda: client.get("/v2/health/live").is_success)
        return gateway

    yield start_gateway
    for gateway in running:
        gateway.http.close()
        gateway.stop()


@pytest.fixture
def make_body() -> Callable[..., bytes]:
    return body_of


@pytest.fixture
def poll() -> Callable[..., Any]:
    return eventually
