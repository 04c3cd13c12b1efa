"""The work of proving that production can serve a model: the very file, in the very gateway, answering requests."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tasks.adapters.embedded_gateway import run_gateway
from tasks.adapters.gateway_client import GatewayClient
from tasks.adapters.local_store import LocalAcknowledgements, LocalArtifacts, LocalDocuments
from tasks.adapters.route_store import RouteStore
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import DataError, ModelError, ServiceUnavailableError
from tasks.contracts.evaluation import ServingTrial
from tasks.contracts.model import ModelRef
from tasks.contracts.route import Arm, Route
from tasks.evaluation.parity import measure_parity
from tasks.evaluation.predictions import predict
from tasks.runtime.services import connect
from tasks.stages.signature import signature_of
from tasks.stages.signing import sign_if_configured
from tasks.stages.splits import load_split

_MODEL = "trial"
_NUM_SINGLE_ROWS = 64
_BATCH_ROWS = 32
_LOADED_WITHIN_S = 60.0


def try_serving(model: ModelRef, data: DatasetRef, command: Sequence[str]) -> ServingTrial:
    """Serve an ONNX model from a store of its own and hold the answers against onnxruntime's.

    The requests are validation rows as clients send them, alone and in a batch.

    Args:
        model: the deployable model.
        data: the data set.
        command: what starts the gateway that production runs.

    Raises:
        ServiceUnavailableError: the gateway did not start, which says nothing about the model.
    """
    artifacts = connect().artifacts
    blob, x = artifacts.get(model.digest), load_split(artifacts, data, "validation").x
    with tempfile.TemporaryDirectory(prefix="stillhouse-trial-") as name:
        folder = Path(name)
        store = folder / "store"
        arm = Arm(digest=LocalArtifacts(store).put(blob).digest, version=1)
        documents = LocalDocuments(store)
        signed = sign_if_configured(connect().settings, documents, _MODEL, arm.digest)
        # whether the file can be served is asked, not who signed it: without a key here, no signature is wanted
        environment = {} if signed else {"STILLHOUSE_VERIFY_KEYS": ""}
        routes = RouteStore(documents, LocalAcknowledgements(store))
        routes.publish(Route(model_name=_MODEL, signature=signature_of(data), champion=arm), expected_version=0)
        log = connect().settings.home / "logs" / "serving-trial.log"
        gateway = run_gateway(command, store, folder / "traffic", log, environment)
        with gateway as url, GatewayClient(url) as client:
            refusal = _why_refused(routes, client, log)
            if refusal:
                return ServingTrial(model=model.digest, num_requests=0, refusal=refusal)
            return _answers(client, model, blob, x, data.num_outputs)


def _why_refused(routes: RouteStore, client: GatewayClient, log: Path) -> str:
    """Wait until the gateway serves the model; return its message if it cannot."""
    deadline = time.monotonic() + _LOADED_WITHIN_S
    while not client.ready(_MODEL):
        messages = [heard.message for heard in routes.live(_MODEL) if not heard.ready]
        if messages:
            return messages[0]
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(
                f"the gateway said nothing of the model for {_LOADED_WITHIN_S:g} s; see {log}"
            )
        time.sleep(0.05)
    return ""


def _answers(client: GatewayClient, model: ModelRef, blob: bytes, x: np.ndarray, num_outputs: int) -> ServingTrial:
    failures: Counter[str] = Counter()
    answered: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    requests = list(_requests(x))
    for rows in requests:
        try:
            outputs = client.infer(_MODEL, rows).outputs
        except (DataError, ModelError, ServiceUnavailableError) as error:
            failures[str(error)] += 1
            continue
        if outputs.size != len(rows) * num_outputs:
            failures[f"{len(rows)} rows were answered by outputs of shape {list(outputs.shape)}"] += 1
            continue
        answered.append(outputs.reshape(len(rows), num_outputs))
        expected.append(predict(blob, rows, num_outputs))
    difference = None
    if answered:
        difference = measure_parity(np.concatenate(expected), np.concatenate(answered)).max_relative_difference
    return ServingTrial(
        model=model.digest, num_requests=len(requests), failures=dict(failures), max_relative_difference=difference
    )


def _requests(x: np.ndarray) -> Iterator[np.ndarray]:
    for row in range(min(_NUM_SINGLE_ROWS, len(x))):
        yield x[row : row + 1]
    yield x[:_BATCH_ROWS]
