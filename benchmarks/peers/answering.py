"""What the peers have in common: the model, and where they listen.

The scripts beside this are run by path with the Python of an environment of their own, so they import nothing of this
repository: `python mlserver_server.py MODEL.onnx`. Each answers the gateway's request with one thread in one process,
as its documentation shows it, with whatever makes it faster and is a setting.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


def load(model: Path) -> ort.InferenceSession:
    """Load the model as the gateway does."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def answer(session: ort.InferenceSession, document: dict[str, Any]) -> dict[str, Any]:
    """Answer a parsed request of the Open Inference Protocol, unchecked."""
    tensor = document["inputs"][0]
    rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    values = session.run(None, {"input": rows})[0]
    output = {"name": "output", "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
    return {"model_name": "digits", "outputs": [output]}


def free_port() -> int:
    """Return a port of the loopback interface that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def told() -> tuple[Path, int, Callable[[], None]]:
    """Return the model that the command line names, a port, and what prints the address as the first line.

    Nothing else is printed: what they log goes to standard error, where it fills no pipe that nobody reads.
    """
    model, port = Path(sys.argv[1]).resolve(), free_port()
    os.chdir(tempfile.mkdtemp(prefix="stillhouse-peer-"))
    first_line = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def announce() -> None:
        os.write(first_line, f"http://127.0.0.1:{port}\n".encode())
        os.close(first_line)

    return model, port, announce


def announced() -> tuple[Path, int]:
    """Return the model that the command line names and a port, and print the address at once."""
    model, port, announce = told()
    announce()
    return model, port
