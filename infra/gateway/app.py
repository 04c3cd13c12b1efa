"""The gateway as an ASGI application: Open Inference Protocol v2, feedback, and metrics."""

import contextlib
import importlib.metadata
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint
from starlette.types import Receive, Scope, Send

from infra.gateway.components import Components
from infra.gateway.config import GatewayConfig
from infra.gateway.errors import RequestError
from infra.gateway.http import Header, JsonEndpoint, Reply, error_reply, json_reply, read_body
from infra.gateway.protocol import check_identifier, parse_feedback
from infra.gateway.records import FeedbackRecord
from infra.gateway.routing import ServedRoute

_MODELS, _INFER = "/v2/models/", "/infer"

logger = logging.getLogger(__name__)


def create_app(config: GatewayConfig) -> Starlette:
    """Build the application; its threads run from the lifespan's start to its end."""
    gateway = Gateway(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gateway.components.start()
        yield
        gateway.components.stop()

    metrics = gateway.components.metrics
    infer = JsonEndpoint(gateway.infer, metrics)
    routes = [
        Endpoint("/v2/models/{model}/infer", infer, methods=["POST"]),
        Endpoint("/v2/models/{model}/feedback", JsonEndpoint(gateway.feedback, metrics), methods=["POST"]),
        Endpoint("/v2", gateway.server_metadata),
        Endpoint("/v2/health/live", gateway.live),
        Endpoint("/v2/health/ready", gateway.ready),
        Endpoint("/v2/models/{model}", gateway.model_metadata),
        Endpoint("/v2/models/{model}/ready", gateway.model_ready),
        Endpoint("/metrics", gateway.expose_metrics),
    ]
    return _GatewayApp(
        infer,
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _refuse, RequestError: _refuse, Exception: _fail},
    )


class _GatewayApp(Starlette):
    """Starlette with a short cut to inference: its middleware and routing cost 15 µs, a tenth of a request."""

    def __init__(self, infer: JsonEndpoint, **options: Any) -> None:
        super().__init__(**options)
        self._infer = infer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or run the lifespan."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            if path.startswith(_MODELS) and path.endswith(_INFER):
                scope["path_params"] = {"model": path[len(_MODELS) : -len(_INFER)]}
                await self._infer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Gateway:
    """The endpoints. `infer` and `feedback` are on bare ASGI: starlette's requests cost more than the split."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self.components = Components(config)
        self._version = _package_version()

    async def infer(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /v2/models/{model}/infer`."""
        served = self._served(scope["path_params"]["model"])
        sent = dict(scope["headers"])
        body = await read_body(sent, receive, self._config.max_body_bytes, self._config.body_timeout_s)
        request = served.parser.parse(body)
        key = _request_key(sent) or request.request_id
        answer = await self.components.dispatcher.infer(served, request, key)
        headers: list[Header] = [
            (b"content-type", b"application/json"),
            (b"x-stillhouse-arm", answer.arm.encode()),
            (b"x-stillhouse-served-by", answer.served_by.encode()),
            (b"x-stillhouse-model-digest", answer.served.digest.encode()),
            (b"x-stillhouse-model-version", b"%d" % answer.served.version),
            (b"x-stillhouse-route-version", b"%d" % served.version),
            (b"x-stillhouse-request-id", request.request_id.encode()),
        ]
        if answer.body is None:
            status, _, body = error_reply(500, "the model gave no usable answer to this input")
            return status, headers, body
        return 200, headers, answer.body

    async def feedback(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /v2/models/{model}/feedback`."""
        served = self._served(scope["path_params"]["model"])
        sent = dict(scope["headers"])
        body = await read_body(sent, receive, self._config.max_body_bytes, self._config.body_timeout_s)
        feedback = parse_feedback(body, served.route.signature, self._config.max_batch_rows)
        name = served.route.model_name
        record = FeedbackRecord(name, feedback.request_id, time.time_ns() // 1000, feedback.labels)
        self.components.feedback.append(record)
        self.components.metrics.feedback.labels(name).inc(record.num_rows)
        return json_reply({"id": feedback.request_id, "accepted": record.num_rows})

    async def server_metadata(self, request: Request) -> Response:
        """Answer `GET /v2`."""
        return _json({"name": "stillhouse-gateway", "version": self._version, "extensions": ["feedback"]})

    async def live(self, request: Request) -> Response:
        """Answer `GET /v2/health/live`."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer `GET /v2/health/ready`: the routes were read, and every routed model can answer."""
        table = self.components.table
        ready = table.scanned and not table.waiting
        return _json({"ready": ready, "models": table.names()}, 200 if ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        """Answer `GET /v2/models/{model}`."""
        served = self._served(request.path_params["model"])
        arms = [arm for arm in (served.route.champion, served.route.challenger) if arm]
        return _json(
            {
                "name": served.route.model_name,
                "versions": [str(arm.version) for arm in arms],
                "platform": "onnx_onnxv1",
                "inputs": [served.champion.input.describe()],
                "outputs": [spec.describe() for spec in served.champion.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Answer `GET /v2/models/{model}/ready`: the champion is loaded; the challenger may not be."""
        served = self._served(request.path_params["model"])
        return _json({"name": served.route.model_name, "ready": True})

    async def expose_metrics(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        return Response(generate_latest(self.components.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _served(self, model_name: str) -> ServedRoute:
        served = self.components.table.get(model_name)
        if served is None:
            if model_name in self.components.table.waiting:
                raise RequestError(503, "this model's champion is not loaded; see the gateway's log")
            raise RequestError(404, "no such model; GET /v2/health/ready lists those that are served")
        return served


def _request_key(headers: dict[bytes, bytes]) -> str | None:
    """Return the caller's key for the split, such as a user id: the same key meets the same arm."""
    value = headers.get(b"x-stillhouse-key")
    return None if value is None else check_identifier(value.decode("latin-1"), "the X-Stillhouse-Key header")


def _json(document: object, status: int = 200) -> Response:
    _, _, body = json_reply(document)
    return Response(body, status, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return Response(error_reply(0, error.detail)[2], error.status_code, error.headers, "application/json")
    assert isinstance(error, RequestError)
    return Response(error_reply(0, error.message)[2], error.status, media_type="application/json")


async def _fail(request: Request, error: Exception) -> Response:
    """Answer what starlette then reports to the server's log."""
    body = error_reply(500, "internal error; the gateway's log has the details")[2]
    return Response(body, 500, media_type="application/json")


def _package_version() -> str:
    try:
        return importlib.metadata.version("stillhouse")
    except importlib.metadata.PackageNotFoundError:  # run from a plain copy of the source
        return "0"
