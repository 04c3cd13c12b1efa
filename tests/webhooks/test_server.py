import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from cryptography.fernet import Fernet
from onnx import TensorProto, helper
from pydantic import SecretStr

from infra.webhooks.app import PATH, create_app
from infra.webhooks.server import WebhookServer
from tasks.adapters.route_store import RouteStore
from tasks.contracts.registration import SIGNATURE_TAG
from tasks.contracts.route import ModelSignature
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings
from tasks.stages.promoting import bootstrap
from tasks.stages.reconciling import reconcile_known

SECRET = "a secret of enough length"
SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))
START_WITHIN_S = 120.0


@contextlib.contextmanager
def receiver(reconcile):
    server = WebhookServer(create_app(SecretStr(SECRET), reconcile))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: httpx.get(f"{server.url}/health", trust_env=False).is_success)
    try:
        yield server.url
    finally:
        server.stop()
        thread.join(timeout=30)
        assert not thread.is_alive()


def eventually(condition, within_s=30.0):
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)


def test_server_listens_on_loopback_and_stops_when_told():
    with receiver(lambda name: None) as url:
        assert url.startswith("http://127.0.0.1:")
        assert httpx.post(f"{url}{PATH}", content=b"{}", trust_env=False).status_code == 401


@pytest.fixture
def mlflow_server(tmp_path):
    """An MLflow server on loopback that may call receivers there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]  # fmt: skip
    with open(tmp_path / "mlflow.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: httpx.get(f"{url}/health", trust_env=False).is_success, START_WITHIN_S)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_an_alias_that_was_moved_by_hand_is_back_within_moments_when_mlflow_sends_its_webhook(tmp_path, mlflow_server):
    from mlflow import MlflowClient

    services = connect(Settings(home=tmp_path / "home", tracking_url=mlflow_server))
    parent = services.tracker.parent_run("digits", "flow", "run", {})
    for weight in (1.0, 2.0):
        register(services, parent, weight)
    bootstrap(services, "digits", 1, "flow", "first", "2026-01-01T00:00:00+00:00")
    client = MlflowClient(mlflow_server)
    with receiver(lambda name: reconcile_known(services, name)) as url:
        events = ["model_version_alias.created", "model_version_alias.deleted", "model_version_tag.set"]
        client.create_webhook("stillhouse", f"{url}{PATH}", events, secret=SECRET)
        threading.Event().wait(2.0)  # MLflow knows of no webhook for as long as its cache of none lives

        client.set_registered_model_alias("digits", "champion", "2")
        eventually(lambda: client.get_model_version_by_alias("digits", "champion").version == "1")
        client.delete_registered_model_alias("digits", "champion")
        eventually(lambda: services.registry.version_of("digits", "champion") is not None)

        assert services.registry.version_of("digits", "champion").version == 1
        counts = eventually(lambda: _settled(url))
        assert set(counts) <= {"accepted", "seen before"}
    assert [entry.version for entry in services.ledger.history("digits")] == [1]
    assert RouteStore(services.documents, services.acknowledgements).current("digits").route.champion.version == 1


def _settled(url):
    """Every alias that the reconciler sets is an event of its own; the fourth follows the second mending."""
    health = httpx.get(f"{url}/health", trust_env=False).json()
    return health["deliveries"] if health["deliveries"].get("accepted", 0) >= 4 and not health["waiting"] else None


def register(services, parent, weight):
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.full(12, weight, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [matrix],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model, example = made.SerializeToString(), io.BytesIO()
    np.savez(example, x=np.ones((2, 4), np.float32))
    digest = services.artifacts.put(model).digest
    tags = {SIGNATURE_TAG: SIGNATURE.model_dump_json()}
    services.registry.register("digits", digest, model, example.getvalue(), tags, {}, parent)
