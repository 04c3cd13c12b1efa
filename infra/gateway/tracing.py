"""OpenTelemetry traces: a server span for every inference, exported as the standard OTEL_* variables say.

Imported only where tracing is on: the gateway's image need not have the packages.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Self

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.types import Receive, Scope

from infra.gateway.errors import RequestError
from infra.gateway.http import ClientGoneError, Reply
from tasks.contracts.errors import UserError

Endpoint = Callable[[Scope, Receive], Awaitable[Reply]]

_HTTP_PROTOCOL = "http/protobuf"
_SERVER_ERROR = 500
_TEXTS = {
    b"x-stillhouse-request-id": "stillhouse.request_id",
    b"x-stillhouse-arm": "stillhouse.arm",
    b"x-stillhouse-served-by": "stillhouse.served_by",
    b"x-stillhouse-model-digest": "stillhouse.model_digest",
    b"x-stillhouse-run-id": "stillhouse.run_id",
}
_NUMBERS = {
    b"x-stillhouse-model-version": "stillhouse.model_version",
    b"x-stillhouse-route-version": "stillhouse.route_version",
}
"""Attributes of the span, and the reply headers that say the same."""


class Tracing:
    """Makes the spans of one gateway."""

    def __init__(self, replica: str, processor: SpanProcessor | None) -> None:
        """Name the spans' source `stillhouse-gateway` and `replica`, unless the environment names another."""
        ours = Resource({SERVICE_NAME: "stillhouse-gateway", SERVICE_INSTANCE_ID: replica})
        self._provider = TracerProvider(resource=Resource.create().merge(ours).merge(OTELResourceDetector().detect()))
        if processor is not None:
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("stillhouse.gateway")

    @classmethod
    def from_environment(cls, replica: str) -> Self:
        """Export as OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_*, OTEL_BSP_* and OTEL_TRACES_SAMPLER say.

        Raises:
            UserError: they ask for an exporter that is not there.
        """
        exporter = _exporter(os.environ.get(OTEL_TRACES_EXPORTER, "otlp").strip().lower())
        return cls(replica, None if exporter is None else BatchSpanProcessor(exporter))

    def traced(self, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint with a span around it, a child of the one that the request's `traceparent` names."""

        async def answer(scope: Scope, receive: Receive) -> Reply:
            span = self._start(scope)
            with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    reply = await endpoint(scope, receive)
                except RequestError as error:
                    _end(span, scope, error.status)
                    raise
                except ClientGoneError:
                    span.set_attribute("error.type", "client_gone")
                    raise
                except Exception:
                    _end(span, scope, _SERVER_ERROR)
                    raise
                _describe(span, reply)
                _end(span, scope, reply[0])
            return reply

        return answer

    def close(self) -> None:
        """Export what is not exported yet."""
        self._provider.shutdown()

    def _start(self, scope: Scope) -> Span:
        path = scope["path"]
        route = "/v2/models/{model}/infer" if path.startswith("/v2/") else path
        if scope.get("path_params", {}).get("version"):
            route = "/v2/models/{model}/versions/{version}/infer"
        attributes = {
            "http.request.method": scope["method"],
            "http.route": route,
            "url.path": path,
            "url.scheme": scope.get("scheme", "http"),
        }
        return self._tracer.start_span(
            f"{scope['method']} {route}", _parent(scope), kind=SpanKind.SERVER, attributes=attributes
        )


def _parent(scope: Scope) -> Context:
    """Return the caller's context, in the form that OTEL_PROPAGATORS names: W3C's if it names none."""
    fields = {name.encode(): name for name in propagate.get_global_textmap().fields}
    return propagate.extract(
        {fields[name]: value.decode("latin-1") for name, value in scope["headers"] if name in fields}
    )


def _describe(span: Span, reply: Reply) -> None:
    """Take over what the reply's headers say."""
    _, headers, _ = reply
    cached = False
    for name, value in headers:
        if name in _TEXTS:
            span.set_attribute(_TEXTS[name], value.decode("latin-1"))
        elif name in _NUMBERS:
            span.set_attribute(_NUMBERS[name], int(value))
        elif name == b"x-stillhouse-cache":
            cached = value == b"hit"
    span.set_attribute("stillhouse.cached", cached)


def _end(span: Span, scope: Scope, status: int) -> None:
    if model_name := scope.get("path_params", {}).get("model"):
        span.set_attribute("stillhouse.model", model_name)
    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:  # what the caller did wrong is no error of the server
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _exporter(name: str) -> SpanExporter | None:
    if name == "none":
        return None
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp":
        raise UserError(f"{OTEL_TRACES_EXPORTER} is {name!r}; tracing knows otlp, console and none")
    for variable in (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL):
        protocol = os.environ.get(variable, _HTTP_PROTOCOL)
        if protocol != _HTTP_PROTOCOL:
            raise UserError(f"{variable} is {protocol!r}; tracing speaks {_HTTP_PROTOCOL} only")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise UserError(
            f"tracing is on, but the OTLP exporter is not installed whole ({error.name} is missing); install "
            f"opentelemetry-exporter-otlp-proto-http, or set {OTEL_TRACES_EXPORTER}=console"
        ) from error
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter
