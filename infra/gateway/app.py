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

from infra.gateway.backend import Backend
from infra.gateway.components import Components
from infra.gateway.config import GatewayConfig
from infra.gateway.errors import RequestError
from infra.gateway.http import JSON, Header, JsonEndpoint, Reply, error_reply, json_reply, read_body
from infra.gateway.protocol import InferRequest, check_identifier, parse_feedback, parse_json_length
from infra.gateway.records import FeedbackRecord
from infra.gateway.routing import ServedRoute

_MODELS, _VERSIONS, _INFER = "/v2/models/", "/versions/", "/infer"
_MAX_VERSION_DIGITS = 9
_MODEL_HEADER = b"x-stillhouse-model"
_JSON_LENGTH = b"inference-header-content-length"

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
        Endpoint("/v2/models/{model}/versions/{version}/infer", infer, methods=["POST"]),
        Endpoint("/v2/models/{model}/feedback", JsonEndpoint(gateway.feedback, metrics), methods=["POST"]),
        Endpoint("/invocations", JsonEndpoint(gateway.invocations, metrics), methods=["POST"]),
        Endpoint("/ping", gateway.ready),
        Endpoint("/v2", gateway.server_metadata),
        Endpoint("/v2/health/live", gateway.live),
        Endpoint("/v2/health/ready", gateway.ready),
        Endpoint("/v2/models/{model}", gateway.model_metadata),
        Endpoint("/v2/models/{model}/ready", gateway.model_ready),
        Endpoint("/v2/models/{model}/stats", gateway.model_statistics),
        Endpoint("/v2/models/{model}/versions/{version}", gateway.model_metadata),
        Endpoint("/v2/models/{model}/versions/{version}/ready", gateway.model_ready),
        Endpoint("/v2/models/{model}/versions/{version}/stats", gateway.model_statistics),
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
                model, _, version = path[len(_MODELS) : -len(_INFER)].partition(_VERSIONS)
                scope["path_params"] = {"model": model, "version": version} if version else {"model": model}
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
        """Answer `POST /v2/models/{model}/infer`, and the same of one version."""
        named = scope["path_params"]
        served = self._served(named["model"])
        sent = dict(scope["headers"])
        body = await read_body(sent, receive, self._config.max_body_bytes, self._config.body_timeout_s)
        length = sent.get(_JSON_LENGTH)
        request = served.parser.parse(body, None if length is None else parse_json_length(length))
        return await self._answer(served, request, sent, named.get("version"))

    async def invocations(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /invocations`, MLflow's scoring protocol, for the only model or the one that a header names."""
        sent = dict(scope["headers"])
        served = self._served(self._invoked(sent))
        body = await read_body(sent, receive, self._config.max_body_bytes, self._config.body_timeout_s)
        return await self._answer(served, served.parser.parse_invocation(body), sent, None)

    async def _answer(
        self, served: ServedRoute, request: InferRequest, sent: dict[bytes, bytes], version: str | None
    ) -> Reply:
        dispatcher = self.components.dispatcher
        if version is not None:
            answer = await dispatcher.infer_version(served, request, _version(version))
        else:
            answer = await dispatcher.infer(served, request, _request_key(sent) or request.request_id)
        headers: list[Header] = [
            (b"x-stillhouse-arm", answer.arm.encode()),
            (b"x-stillhouse-served-by", answer.served_by.encode()),
            (b"x-stillhouse-model-digest", answer.served.digest.encode()),
            (b"x-stillhouse-model-version", b"%d" % answer.served.version),
            (b"x-stillhouse-route-version", b"%d" % served.version),
            (b"x-stillhouse-request-id", request.request_id.encode()),
        ]
        if answer.encoded is None:
            status, plain, body = error_reply(500, "the model gave no usable answer to this input")
            return status, [*plain, *headers], body
        body, json_bytes = answer.encoded
        if json_bytes is None:
            headers.append(JSON)
        else:
            headers += [(b"content-type", b"application/octet-stream"), (_JSON_LENGTH, b"%d" % json_bytes)]
        return 200, headers, body

    def _invoked(self, sent: dict[bytes, bytes]) -> str:
        name = sent.get(_MODEL_HEADER)
        if name is not None:
            return check_identifier(name.decode("latin-1"), "the X-Stillhouse-Model header")
        names = self.components.table.names()
        if len(names) != 1:
            raise RequestError(400, "this gateway does not serve one model only; name it by X-Stillhouse-Model")
        return names[0]

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
        return _json(
            {
                "name": "stillhouse-gateway",
                "version": self._version,
                "extensions": ["binary_tensor_data", "statistics", "feedback"],
            }
        )

    async def live(self, request: Request) -> Response:
        """Answer `GET /v2/health/live`."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer `GET /v2/health/ready`, and MLflow's `GET /ping`: every routed model can answer."""
        table = self.components.table
        ready = table.scanned and not table.waiting
        return _json({"ready": ready, "models": table.names()}, 200 if ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        """Answer `GET /v2/models/{model}`, and the same of one version."""
        served = self._served(request.path_params["model"])
        self._backend_of(served, request)
        return _json(
            {
                "name": served.route.model_name,
                "versions": [str(version) for version in served.versions()],
                "platform": "onnx_onnxv1",
                "inputs": [served.champion.input.describe()],
                "outputs": [spec.describe() for spec in served.champion.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Answer `GET /v2/models/{model}/ready`: the champion is loaded; a version that is named must be."""
        served = self._served(request.path_params["model"])
        ready = self._backend_of(served, request) is not None
        return _json({"name": served.route.model_name, "ready": ready}, 200 if ready else 503)

    async def model_statistics(self, request: Request) -> Response:
        """Answer `GET /v2/models/{model}/stats`: what each loaded version has run in this process."""
        served = self._served(request.path_params["model"])
        self._backend_of(served, request)
        wanted = request.path_params.get("version")
        versions = served.versions() if wanted is None else [_version(wanted)]
        loaded = ((version, served.of_version(version)[1]) for version in versions)
        return _json(
            {
                "model_stats": [
                    {"name": served.route.model_name, "version": str(version)} | backend.statistics.describe()
                    for version, backend in loaded
                    if backend is not None
                ]
            }
        )

    async def expose_metrics(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        return Response(generate_latest(self.components.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _backend_of(self, served: ServedRoute, request: Request) -> Backend | None:
        """Return the model that the path names: that version's, else the champion's."""
        version = request.path_params.get("version")
        return served.champion if version is None else served.of_version(_version(version))[1]

    def _served(self, model_name: str) -> ServedRoute:
        served = self.components.table.get(model_name)
        if served is None:
            if not self.components.table.scanned:
                raise RequestError(503, "the gateway is starting and has not read its routes yet")
            if model_name in self.components.table.waiting:
                raise RequestError(503, "this model's champion is not loaded; see the gateway's log")
            raise RequestError(404, "no such model; GET /v2/health/ready lists those that are served")
        return served


def _version(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > _MAX_VERSION_DIGITS:
        raise RequestError(404, "a version is a number; GET /v2/models/MODEL lists those that are served")
    return int(text)


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
