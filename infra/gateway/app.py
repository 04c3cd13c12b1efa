"""The gateway as an ASGI application: Open Inference Protocol v2, feedback, and metrics."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint
from starlette.types import Receive, Scope, Send

from infra.gateway.access import Access
from infra.gateway.admission import ARRIVAL, Admission
from infra.gateway.cache import BodyKey
from infra.gateway.components import Components
from infra.gateway.config import GatewayConfig
from infra.gateway.connection import AtOnce
from infra.gateway.descriptions import Descriptions
from infra.gateway.dispatch import Answer
from infra.gateway.errors import RequestError
from infra.gateway.exposition import Exposition
from infra.gateway.http import CONTENT_TYPE, JSON_LENGTH, JsonEndpoint, Reply, error_reply, json_reply, read_body
from infra.gateway.protocol import InferRequest, check_identifier, parse_feedback, parse_json_length
from infra.gateway.recall import BODY_KEY, INVOCATIONS, OPEN_INFERENCE, Recall
from infra.gateway.records import FeedbackRecord
from infra.gateway.replies import reply_of
from infra.gateway.request_log import RequestLog
from infra.gateway.routing import RoutingTable, ServedRoute, parse_version
from infra.gateway.targets import infer_target, request_key

_LOADED_WITHIN_S, _POLL_S = 30.0, 0.02
_MODEL_HEADER = b"x-stillhouse-model"

logger = logging.getLogger(__name__)


def create_app(config: GatewayConfig, admission: Admission, access: Access | None = None) -> "GatewayApp":
    """Build the application; its threads run from the lifespan's start to its end.

    Args:
        config: what the gateway is told.
        admission: what bounds its requests.
        access: the tokens that callers need; None lets everybody in.
    """
    gateway = Gateway(config, admission, access)
    exposition = Exposition(gateway.components.metrics.registry, config.replica, config.peer_sockets)
    described = Descriptions(gateway.components, admission, exposition)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gateway.components.start()
        await exposition.start()
        if config.reuse_port:
            await _first_scan(gateway.components.table)
        yield
        await exposition.close()
        gateway.components.stop()

    log = RequestLog(every_request=config.access_log)
    endpoint = functools.partial(JsonEndpoint, metrics=gateway.components.metrics, access=access, log=log)
    traced = gateway.components.traced
    infer = endpoint(traced(gateway.infer), role="infer")
    routes = [
        _post("/v2/models/{model}/infer", infer),
        _post("/v2/models/{model}/versions/{version}/infer", infer),
        _post("/v2/models/{model}/feedback", endpoint(gateway.feedback, role="feedback")),
        _post("/invocations", endpoint(traced(gateway.invocations), role="infer")),
        _get("/ping", endpoint(described.ready, role=None)),
        _get("/v2", endpoint(described.server_metadata, role=None)),
        _get("/v2/health/live", endpoint(described.live, role=None)),
        _get("/v2/health/ready", endpoint(described.ready, role=None)),
        _get("/v2/models/{model}", endpoint(described.model_metadata, role="infer")),
        _get("/v2/models/{model}/ready", endpoint(described.model_ready, role=None)),
        _get("/v2/models/{model}/stats", endpoint(described.model_statistics, role="admin")),
        _get("/v2/models/{model}/versions/{version}", endpoint(described.model_metadata, role="infer")),
        _get("/v2/models/{model}/versions/{version}/ready", endpoint(described.model_ready, role=None)),
        _get("/v2/models/{model}/versions/{version}/stats", endpoint(described.model_statistics, role="admin")),
        _get("/openapi.json", endpoint(described.describe, role=None)),
        _get("/metrics", endpoint(described.expose_metrics, role="admin")),
    ]
    # at once, a request makes no span and no line of the log
    recall = None if config.access_log or config.tracing else gateway.recall
    return GatewayApp(
        infer,
        admission,
        None if recall is None else recall.at_once,
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


class GatewayApp(Starlette):
    """Starlette with a short cut to inference: its middleware and routing cost 15 µs, a tenth of a request."""

    def __init__(self, infer: JsonEndpoint, admission: Admission, at_once: AtOnce | None, **options: Any) -> None:
        super().__init__(**options)
        self._infer = infer
        self._admission = admission
        self.at_once = at_once
        """What may answer a whole request before it is given to this application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or run the lifespan."""
        if ARRIVAL in scope:
            self._admission.leave_queue()
        if scope["type"] == "http" and scope["method"] == "POST":
            target = infer_target(scope["path"])
            if target is not None:
                model, version = target
                scope["path_params"] = {"model": model, "version": version} if version else {"model": model}
                await self._infer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Gateway:
    """The endpoints, on bare ASGI."""

    def __init__(self, config: GatewayConfig, admission: Admission, access: Access | None) -> None:
        self._config = config
        self._admission = admission
        self.components = parts = Components(config)
        self._table = parts.table
        self.recall: Recall | None = None
        if parts.cache is not None:
            share = config.sample_inputs
            self.recall = Recall(parts.table, parts.dispatcher, parts.cache, admission, access, sample_share=share)

    async def infer(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /v2/models/{model}/infer`, and the same of one version."""
        waited_s = self._admission.begin(scope)
        named = scope["path_params"]
        served = self._table.require(named["model"])
        sent = dict(scope["headers"])
        body = await self._body(sent, receive)
        if "version" in named:
            request = served.parser.parse(body, _json_length(sent))
            answer = await self._run(served, request, sent, named["version"], waited_s)
            return reply_of(served, answer, request.request_id)
        if self.recall is None:
            return await self._answer(served, served.parser.parse(body, _json_length(sent)), sent, waited_s)
        key = scope.get(BODY_KEY)
        if key is None or key.parser != served.parser.identity:  # the route may have changed since it was looked for
            key = self.recall.key_of(served, OPEN_INFERENCE, sent, body)
            if (reply := self.recall.reply(served, key, sent, body)) is not None:
                return reply
        return await self._answer(served, served.parser.parse(body, _json_length(sent)), sent, waited_s, key)

    async def invocations(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /invocations`, MLflow's scoring protocol, for the only model or the one that a header names."""
        waited_s = self._admission.begin(scope)
        sent = dict(scope["headers"])
        name = scope["path_params"]["model"] = self._invoked(sent)
        served = self._table.require(name)
        body = await self._body(sent, receive)
        key = None
        if self.recall is not None:
            key = self.recall.key_of(served, INVOCATIONS, sent, body)
            if (reply := self.recall.reply(served, key, sent, body)) is not None:
                return reply
        return await self._answer(served, served.parser.parse_invocation(body), sent, waited_s, key)

    async def _answer(
        self,
        served: ServedRoute,
        request: InferRequest,
        sent: dict[bytes, bytes],
        waited_s: float,
        key: BodyKey | None = None,
    ) -> Reply:
        """Answer a request that meets the split; `key` is its body's where it may be recalled."""
        answer = await self._run(served, request, sent, None, waited_s)
        if key is not None and answer.cached and self.recall is not None:
            self.recall.learn(key, request)
        return reply_of(served, answer, request.request_id)

    async def _run(
        self,
        served: ServedRoute,
        request: InferRequest,
        sent: dict[bytes, bytes],
        version: str | None,
        waited_s: float,
    ) -> Answer:
        started = time.perf_counter()
        if served.expected_ms(len(request.inputs)) > self._config.inline_limit_ms:
            async with self._admission.thread(waited_s):
                return await self._dispatched(served, request, sent, version)
        answer = await self._dispatched(served, request, sent, version)
        self._admission.observe(time.perf_counter() - started)
        return answer

    def _dispatched(
        self, served: ServedRoute, request: InferRequest, sent: dict[bytes, bytes], version: str | None
    ) -> Awaitable[Answer]:
        dispatcher = self.components.dispatcher
        if version is not None:
            return dispatcher.infer_version(served, request, parse_version(version))
        return dispatcher.infer(served, request, request_key(sent) or request.request_id)

    def _body(self, sent: dict[bytes, bytes], receive: Receive) -> Awaitable[bytes]:
        limits = self._config.max_body_bytes, self._config.body_timeout_s
        return read_body(sent, receive, self._admission, *limits)

    def _invoked(self, sent: dict[bytes, bytes]) -> str:
        name = sent.get(_MODEL_HEADER)
        if name is not None:
            return check_identifier(name.decode("latin-1"), "the X-Stillhouse-Model header")
        names = self._table.names()
        if len(names) != 1:
            raise RequestError(400, "this gateway does not serve one model only; name it by X-Stillhouse-Model")
        return names[0]

    async def feedback(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `POST /v2/models/{model}/feedback`."""
        served = self._table.require(scope["path_params"]["model"])
        sent = dict(scope["headers"])
        body = await self._body(sent, receive)
        feedback = parse_feedback(body, served.route.signature, self._config.max_batch_rows)
        name = served.route.model_name
        record = FeedbackRecord(name, feedback.request_id, time.time_ns() // 1000, feedback.labels)
        self.components.feedback.append(record)
        self.components.metrics.feedback.labels(name).inc(record.num_rows)
        return json_reply({"id": feedback.request_id, "accepted": record.num_rows})


def _json_length(sent: dict[bytes, bytes]) -> int | None:
    """Return what Inference-Header-Content-Length says; None without that header."""
    value = sent.get(JSON_LENGTH)
    if value is None:
        return None
    length = parse_json_length(value)
    if length == 0 and sent.get(CONTENT_TYPE, b"").lower().startswith(b"application/json"):
        # 48 letters of JSON are also twelve finite floats: they would be answered, and wrongly
        raise RequestError(400, "Inference-Header-Content-Length 0 means bare values, and Content-Type says JSON")
    return length


async def _refuse(log: RequestLog, request: Request, error: Exception) -> Response:
    """Answer what meets no endpoint: 404 and 405."""
    assert isinstance(error, HTTPException)
    log.write(request.scope, error.status_code, [], 0.0, error.detail)
    return Response(error_reply(0, error.detail)[2], error.status_code, error.headers, "application/json")


async def _fail(request: Request, error: Exception) -> Response:
    """Answer what starlette then reports to the server's log."""
    body = error_reply(500, "internal error; the gateway's log has the details")[2]
    return Response(body, 500, media_type="application/json")
