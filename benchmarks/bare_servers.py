"""Servers that answer the gateway's request and do nothing else: `python -m benchmarks.bare_servers KIND MODEL`.

`asgi` and `starlette` read the JSON request, run the model and write the JSON answer; `fastapi` declares both as
pydantic models, as its tutorial does, and so checks types; `mlflow` is MLflow's scoring server, whose MODEL is an
MLflow folder. None divides traffic, counts or logs.
"""

import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tasks.evaluation.runtime_session import make_session

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def answering(model: bytes) -> Callable[[bytes], bytes]:
    """Return the function from the request's body to the answer's."""
    session = make_session(model)

    def answer(body: bytes) -> bytes:
        tensor = orjson.loads(body)["inputs"][0]
        rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        values = session.run(None, {"input": rows})[0]
        output = {"name": "output", "datatype": "FP32", "shape": values.shape, "data": values.ravel()}
        return orjson.dumps({"model_name": "bare", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)

    return answer


def asgi(answer: Callable[[bytes], bytes]) -> Application:
    """Serve by the ASGI protocol alone."""

    async def application(_scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        content = answer(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return application


def starlette(answer: Callable[[bytes], bytes]) -> Application:
    """Serve with routing, requests and responses of Starlette."""

    async def infer(request: Request) -> Response:
        return Response(answer(await request.body()), media_type="application/json")

    return Starlette(routes=[Route("/v2/models/{name}/infer", infer, methods=["POST"])])


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferenceRequest(BaseModel):
    """A request."""

    id: str | None = None
    inputs: list[Tensor]


class InferenceResponse(BaseModel):
    """An answer."""

    model_name: str
    id: str | None = None
    outputs: list[Tensor]


def fastapi(path: Path) -> Application:
    """Serve by FastAPI with pydantic models for request and response."""
    from fastapi import FastAPI

    session = make_session(path.read_bytes())
    application = FastAPI()

    @application.post("/v2/models/{name}/infer")
    async def infer(name: str, request: InferenceRequest) -> InferenceResponse:
        tensor = request.inputs[0]
        rows = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
        values = session.run(None, {"input": rows})[0]
        output = Tensor(name="output", datatype="FP32", shape=list(values.shape), data=values.ravel().tolist())
        return InferenceResponse(model_name=name, id=request.id, outputs=[output])

    return application


def mlflow(path: Path) -> Application:
    """Serve an MLflow model as `mlflow models serve` does."""
    from mlflow.pyfunc import scoring_server

    model = scoring_server.load_model_with_mlflow_config(str(path))  # type: ignore[no-untyped-call]
    application: Application = scoring_server.init(model)
    return application


_APPLICATIONS: dict[str, Callable[[Path], Application]] = {
    "asgi": lambda path: asgi(answering(path.read_bytes())),
    "starlette": lambda path: starlette(answering(path.read_bytes())),
    "fastapi": fastapi,
    "mlflow": mlflow,
}


def main(kind: str, model: Path) -> None:
    """Serve on a free port of the loopback interface until told to stop; print the address first."""
    application = _APPLICATIONS[kind](model)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        application, loop="uvloop", http="httptools", access_log=False, log_config=None, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
