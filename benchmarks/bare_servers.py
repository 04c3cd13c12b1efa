"""The least that answers the gateway's request: `python -m benchmarks.bare_servers asgi|starlette MODEL.onnx`.

Both read the JSON request, run the model and write the JSON answer. They check nothing, divide no
traffic, count nothing and log nothing.
"""

import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
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


def main(kind: str, model: Path) -> None:
    """Serve on a free port of the loopback interface until told to stop; print the address first."""
    application = {"asgi": asgi, "starlette": starlette}[kind](answering(model.read_bytes()))
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        application, loop="uvloop", http="httptools", access_log=False, log_config=None, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
