"""Who answers the same request beside the gateway, how each is started, and what is asked of it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks.http_load import http_request
from tasks.adapters.gateway_client import infer_body

PEERS_VARIABLE = "BENCHMARK_PEERS"
"""Environment variable: the folder of a virtual environment that holds the peers; empty for none."""
_PEERS = {"mlserver": "MLServer", "litserve": "LitServe", "ray": "Ray Serve"}
_PEER_MODULES = {"mlserver": "mlserver", "litserve": "litserve", "ray": "ray.serve"}
_IMPORT_WITHIN_S = 120.0


@dataclass(frozen=True)
class Contender:
    """A server and the requests for it."""

    name: str
    command: list[str]
    requests: Sequence[bytes]


def open_inference(rows: np.ndarray, model_name: str = "digits") -> list[bytes]:
    """Return JSON requests for rows [requests, N, inputs]; each has an id of its own, by which a gateway divides."""
    path = f"/v2/models/{model_name}/infer"
    return [http_request(path, infer_body("input", x, f"request-{number}")) for number, x in enumerate(rows)]


def binary(rows: np.ndarray, model_name: str = "digits") -> list[bytes]:
    """Return the same requests with the values as bytes; the answers' values come as bytes too."""
    made = []
    for number, x in enumerate(rows):
        values = x.astype("<f4").tobytes()
        tensor = {
            "name": "input", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": len(values)}
        }  # fmt: skip
        text = orjson.dumps({"id": f"request-{number}", "inputs": [tensor], "parameters": {"binary_data_output": True}})
        headers = f"content-type: application/octet-stream\r\ninference-header-content-length: {len(text)}\r\n"
        made.append(http_request(f"/v2/models/{model_name}/infer", text + values, headers))
    return made


def plain_servers(model: Path, mlflow_folder: Path, rows: np.ndarray) -> list[Contender]:
    """Return the servers that need no more than this environment."""
    invocations = [http_request("/invocations", orjson.dumps({"inputs": x.tolist()})) for x in rows]
    protocol = open_inference(rows)
    return [
        Contender("bare ASGI", _bare("asgi", model), protocol),
        Contender("bare Starlette", _bare("starlette", model), protocol),
        Contender("FastAPI and pydantic", _bare("fastapi", model), protocol),
        Contender("MLflow's scoring server", _bare("mlflow", mlflow_folder), invocations),
    ]


def peers(model: Path, rows: np.ndarray) -> tuple[list[Contender], list[str]]:
    """Return the peers that the environment named by `PEERS_VARIABLE` holds, and the names of those it does not."""
    folder = os.environ.get(PEERS_VARIABLE)
    if not folder:
        return [], list(_PEERS.values())
    python = str(Path(folder) / "bin" / "python")
    found = [kind for kind, module in _PEER_MODULES.items() if _importable(python, module)]
    protocol = open_inference(rows)
    scripts = Path(__file__).with_name("peers")
    present = [
        Contender(_PEERS[kind], [python, str(scripts / f"{kind}_server.py"), str(model)], protocol) for kind in found
    ]
    return present, [name for kind, name in _PEERS.items() if kind not in found]


def save_for_mlflow(model: bytes, folder: Path) -> None:
    """Write an MLflow model whose session has one thread, like all others here."""
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 784), "input")]))
    mlflow.onnx.save_model(
        onnx.load_model_from_string(model),
        str(folder),
        signature=signature,
        pip_requirements=["onnxruntime"],
        onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        save_as_external_data=False,
    )


def _bare(kind: str, model: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.bare_servers", kind, str(model)]


def _importable(python: str, module: str) -> bool:
    try:
        done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, timeout=_IMPORT_WITHIN_S)
    except FileNotFoundError:
        return False
    return done.returncode == 0
