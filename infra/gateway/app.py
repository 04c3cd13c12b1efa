"""The gateway as an ASGI application: Open Inference Protocol v2, feedback, and metrics."""

import asyncio
import contextlib
import functools
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

from infra.gateway.access import Access
from infra.gateway.admission import ARRIVAL, Admission
from infra.gateway.backend import Backend
from infra.gateway.components import Components
from infra.gateway.config import GatewayConfig
from infra.gateway.dispatch import Answer
from infra.gateway.errors import BusyError, RequestError
from infra.gateway.http import CLOSE, JSON, Header, JsonEndpoint, Reply, error_reply, json_reply, read_body
from infra.gateway.openapi.document import openapi_json
from infra.gateway.protocol import InferRequest, check_identifier, parse_feedback, parse_json_length
from infra.gateway.records import FeedbackRecord
from infra.gateway.request_log import RequestLog
from infra.gateway.routing import RoutingTable, ServedRoute

_MODELS, _VERSIONS, _INFER = "/v2/models/", "/versions/", "/infer"
_MAX_VERSION_DIGITS = 9
_LOADED_WITHIN_S, _POLL_S = 30.0, 0.02
_MODEL_HEADER = b"x-stillhouse-model"
_JSON_LENGTH = b"inference-header-content-length"

logger = logging.getLogger(__name__)


def create_app(config: GatewayConfig, admission: Admission, access: Access | None = None) -> Starlette:
    """Build the application; its threads run from the lifespan's start to its end.

    Args:
        config: what the gateway is told.
        admission: what bounds its requests.
        access: the tokens that callers need; None lets everybody in.
    """
    gateway = Gateway(config, admission)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gateway.components.start()
        if config.reuse_port:
            await _first_scan(gateway.components.table)
        yield
        gateway.components.stop()

    log = RequestLog(every_request=config.access_log)
    endpoint = functools.partial(JsonEndpoint, metrics=gateway.components.metrics, access=access, log=log)
    infer = endpoint(gateway.infer, role="infer")
    routes = [
        _post("/v2/models/{model}/infer", infer),
        _post("/v2/models/{model}/versions/{version}/infer", infer),
        _post("/v2/models/{model}/feedback", endpoint(gateway.feedback, role="feedback")),
        _post("/invocations", endpoint(gateway.invocations, role="infer")),
        _get("/ping", endpoint(gateway.ready, role=None)),
        _get("/v2", endpoint(gateway.server_metadata, role=None)),
        _get("/v2/health/live", endpoint(gateway.live, role=None)),
        _get("/v2/health/ready", endpoint(gateway.ready, role=None)),
        _get("/v2/models/{model}", endpoint(gateway.model_metadata, role="infer")),
        _get("/v2/models/{model}/ready", endpoint(gateway.model_ready, role=None)),
        _get("/v2/models/{model}/stats", endpoint(gateway.model_statistics, role="admin")),
        _get("/v2/models/{model}/versions/{version}", endpoint(gateway.model_metadata, role="infer")),
        _get("/v2/models/{model}/versions/{version}/ready", endpoint(gateway.model_ready, role=None)),
        _get("/v2/models/{model}/versions/{version}/stats", endpoint(gateway.model_statistics, role="admin")),
        _get("/openapi.json", endpoint(gateway.describe, role=None)),
        _get("/metrics", endpoint(gateway.expose_metrics, role="admin")),
    ]
    return _GatewayApp(
        infer,
        admission,
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: functools.partial(_refuse, log), Exception: _fail},
    )


async def _first_scan(table: RoutingTable) -> None:
    """Wait until the models are loaded; without a store that can be read, serve all the same and say not ready."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOADED_WITHIN_S):
            while not table.scanned:
                await asyncio.sleep(_POLL_S)


def _get(path: str, endpoint: JsonEndpoint) -> Endpoint:
    return Endpoint(path, endpoint, methods=["GET"])


def _post(path: str, endpoint: JsonEndpoint) -> Endpoint:
    return Endpoint(path, endpoint, methods=["POST"])


class _GatewayApp(Starlette):
    """Starlette with a short cut to inference: its middleware and routing cost 15 µs, a tenth of a request."""

    def __init__(self, infer: JsonEndpoint, admission: Admission, **options: Any) -> None:
        super().__init__(**options)
        self._infer = infer
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or run the lifespan."""
        if ARRIVAL in scope:
            self._admission.leave_queue()
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            if path.startswith(_MODELS) and path.endswith(_INFER):
                model, _, version = path[len(_MODELS) : -len(_INFER)].partition(_VERSIONS)
                scope["path_params"] = {"model": model, "version": version} if version else {"model": model}
                await self._infer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Gateway:
    """The endpoints, on bare ASGI."""

    def __init__(self, config: GatewayConfig, admission: Admission) -> None:
        self._config = config
        self._admission = admission
        self.components = Components(config)
        self._version = _package_version()

    async def infer(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /v2/models/{model}/infer`, and the same of one version."""
        waited_s = self._admission.begin(scope)
        named = scope["path_params"]
        served = self._served(named["model"])
        sent = dict(scope["headers"])
        body = await self._body(sent, receive)
        length = sent.get(_JSON_LENGTH)
        request = served.parser.parse(body, None if length is None else _json_length(length, sent))
        return await self._answer(served, request, sent, named.get("version"), waited_s)

    async def invocations(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /invocations`, MLflow's scoring protocol, for the only model or the one that a header names."""
        waited_s = self._admission.begin(scope)
        sent = dict(scope["headers"])
        served = self._served(self._invoked(sent))
        body = await self._body(sent, receive)
        return await self._answer(served, served.parser.parse_invocation(body), sent, None, waited_s)

    async def _answer(
        self,
        served: ServedRoute,
        request: InferRequest,
        sent: dict[bytes, bytes],
        version: str | None,
        waited_s: float,
    ) -> Reply:
        started = time.perf_counter()
        if served.expected_ms(len(request.inputs)) > self._config.inline_limit_ms:
            async with self._admission.thread(waited_s):
                answer = await self._dispatched(served, request, sent, version)
        else:
            answer = await self._dispatched(served, request, sent, version)
            self._admission.observe(time.perf_counter() - started)
        headers: list[Header] = [
            (b"x-stillhouse-arm", answer.arm.encode()),
            (b"x-stillhouse-served-by", answer.served_by.encode()),
            (b"x-stillhouse-model-digest", answer.served.digest.encode()),
            (b"x-stillhouse-model-version", b"%d" % answer.served.version),
            (b"x-stillhouse-route-version", b"%d" % served.version),
            (b"x-stillhouse-request-id", request.request_id.encode()),
        ]
        if self._admission.draining:
            headers.append(CLOSE)
        if answer.encoded is None:
            status, plain, body = error_reply(500, "the model gave no usable answer to this input")
            return status, [*plain, *headers], body
        body, json_bytes = answer.encoded
        if json_bytes is None:
            headers.append(JSON)
        else:
            headers += [(b"content-type", b"application/octet-stream"), (_JSON_LENGTH, b"%d" % json_bytes)]
        return 200, headers, body

    async def _dispatched(
        self, served: ServedRoute, request: InferRequest, sent: dict[bytes, bytes], version: str | None
    ) -> Answer:
        dispatcher = self.components.dispatcher
        if version is not None:
            return await dispatcher.infer_version(served, request, _version(version))
        return await dispatcher.infer(served, request, _request_key(sent) or request.request_id)

    async def _body(self, sent: dict[bytes, bytes], receive: Receive) -> bytes:
        limits = self._config.max_body_bytes, self._config.body_timeout_s
        return await read_body(sent, receive, self._admission, *limits)

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
        body = await self._body(sent, receive)
        feedback = parse_feedback(body, served.route.signature, self._config.max_batch_rows)
        name = served.route.model_name
        record = FeedbackRecord(name, feedback.request_id, time.time_ns() // 1000, feedback.labels)
        self.components.feedback.append(record)
        self.components.metrics.feedback.labels(name).inc(record.num_rows)
        return json_reply({"id": feedback.request_id, "accepted": record.num_rows})

    async def server_metadata(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2`."""
        return json_reply(
            {
                "name": "stillhouse-gateway",
                "version": self._version,
                "extensions": ["binary_tensor_data", "statistics", "feedback"],
            }
        )

    async def live(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/health/live`."""
        return json_reply({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/health/ready`, and MLflow's `GET /ping`: every routed model can answer."""
        table = self.components.table
        ready = table.scanned and not table.waiting and not self._admission.draining
        return _readiness({"ready": ready, "models": table.names()}, ready=ready)

    async def model_metadata(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/models/{model}`, and the same of one version."""
        served = self._served(scope["path_params"]["model"])
        self._backend_of(served, scope)
        return json_reply(
            {
                "name": served.route.model_name,
                "versions": [str(version) for version in served.versions()],
                "platform": "onnx_onnxv1",
                "inputs": [served.champion.input.describe()],
                "outputs": [spec.describe() for spec in served.champion.outputs],
            }
        )

    async def model_ready(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/models/{model}/ready`: the champion is loaded; a version that is named must be."""
        served = self._served(scope["path_params"]["model"])
        ready = self._backend_of(served, scope) is not None
        return _readiness({"name": served.route.model_name, "ready": ready}, ready=ready)

    async def model_statistics(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/models/{model}/stats`: what each loaded version has run in this process."""
        served = self._served(scope["path_params"]["model"])
        self._backend_of(served, scope)
        wanted = scope["path_params"].get("version")
        versions = served.versions() if wanted is None else [_version(wanted)]
        loaded = ((version, served.of_version(version)[1]) for version in versions)
        return json_reply(
            {
                "model_stats": [
                    {"name": served.route.model_name, "version": str(version)} | backend.statistics.describe()
                    for version, backend in loaded
                    if backend is not None
                ]
            }
        )

    async def describe(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /openapi.json`."""
        return 200, [JSON], openapi_json(self._version)

    async def expose_metrics(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /metrics`."""
        page = generate_latest(self.components.metrics.registry)
        return 200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], page

    def _backend_of(self, served: ServedRoute, scope: Scope) -> Backend | None:
        """Return the model that the path names: that version's, else the champion's."""
        version = scope["path_params"].get("version")
        return served.champion if version is None else served.of_version(_version(version))[1]

    def _served(self, model_name: str) -> ServedRoute:
        served = self.components.table.get(model_name)
        if served is None:
            if model_name in self.components.table.waiting:
                message = "this model's champion is not loaded; see the gateway's log"
                raise BusyError(503, message, retry_after_s=self._config.retry_interval_s)
            if not self.components.table.scanned:
                raise BusyError(503, "this gateway has just begun and has not read its routes")
            raise RequestError(404, "no such model; GET /v2/health/ready lists those that are served")
        return served


def _readiness(document: object, *, ready: bool) -> Reply:
    status, headers, body = json_reply(document, 200 if ready else 503)
    return status, headers if ready else [*headers, (b"retry-after", b"1")], body


def _version(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > _MAX_VERSION_DIGITS:
        raise RequestError(404, "a version is a number; GET /v2/models/MODEL lists those that are served")
    return int(text)


def _json_length(value: bytes, sent: dict[bytes, bytes]) -> int:
    length = parse_json_length(value)
    if length == 0 and sent.get(b"content-type", b"").lower().startswith(b"application/json"):
        # 48 letters of JSON are also twelve finite floats: they would be answered, and wrongly
        raise RequestError(400, "Inference-Header-Content-Length 0 means bare values, and Content-Type says JSON")
    return length


def _request_key(headers: dict[bytes, bytes]) -> str | None:
    """Return the caller's key for the split, such as a user id: the same key meets the same arm."""
    value = headers.get(b"x-stillhouse-key")
    return None if value is None else check_identifier(value.decode("latin-1"), "the X-Stillhouse-Key header")


async def _refuse(log: RequestLog, request: Request, error: Exception) -> Response:
    """Answer what meets no endpoint: 404 and 405."""
    assert isinstance(error, HTTPException)
    log.write(request.scope, error.status_code, [], 0.0, error.detail)
    return Response(error_reply(0, error.detail)[2], error.status_code, error.headers, "application/json")


async def _fail(request: Request, error: Exception) -> Response:
    """Answer what starlette then reports to the server's log."""
    body = error_reply(500, "internal error; the gateway's log has the details")[2]
    return Response(body, 500, media_type="application/json")


def _package_version() -> str:
    try:
        return importlib.metadata.version("stillhouse")
    except importlib.metadata.PackageNotFoundError:  # run from a plain copy of the source
        return "0"
