import subprocess
import sys
import types

import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from infra.gateway import tracing
from infra.gateway.__main__ import main
from infra.gateway.http import ClientGoneError
from infra.gateway.tracing import Tracing
from tasks.contracts.errors import UserError

ROW = np.ones((1, 4), np.float32)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exported(monkeypatch):
    """A gateway's spans, kept in memory instead of being sent."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(
        Tracing, "from_environment", classmethod(lambda cls, replica: cls(replica, SimpleSpanProcessor(exporter)))
    )
    return exporter


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_span_says_who_answered_and_continues_the_callers_trace(start, site, models, exported, make_body):
    gateway = start(tracing=True, cache_bytes=10_000)
    digest = site.put(models.linear())
    site.wait_for(site.route(digest))
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    for _ in range(2):
        gateway.http.post(gateway.path, content=make_body(ROW, "r"), headers=headers)
    first, second = exported.get_finished_spans()
    assert first.name == "POST /v2/models/{model}/infer"
    assert first.kind == SpanKind.SERVER
    assert format(first.context.trace_id, "032x") == TRACE
    assert format(first.parent.span_id, "016x") == PARENT
    assert dict(first.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "url.path": "/v2/models/digits/infer",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "stillhouse.model": "digits",
        "stillhouse.request_id": "r",
        "stillhouse.arm": "champion",
        "stillhouse.served_by": "champion",
        "stillhouse.model_digest": digest,
        "stillhouse.model_version": 1,
        "stillhouse.route_version": 1,
        "stillhouse.cached": False,
    }
    assert second.attributes["stillhouse.cached"] is True
    assert first.status.status_code == StatusCode.UNSET
    resource = first.resource.attributes
    assert (resource["service.name"], resource["service.instance.id"]) == ("stillhouse-gateway", "test")


def test_a_span_begins_a_trace_when_the_caller_sends_none_or_nonsense(start, site, models, exported, make_body):
    gateway = start(tracing=True)
    site.wait_for(site.route(site.put(models.linear())))
    gateway.infer(ROW)
    gateway.http.post(gateway.path, content=make_body(ROW), headers={"traceparent": "00-nonsense"})
    first, second = exported.get_finished_spans()
    assert first.parent is second.parent is None
    assert first.context.trace_id != second.context.trace_id


def test_spans_tell_refusals_from_failures(start, site, models, exported, make_body):
    gateway = start(tracing=True)
    site.wait_for(site.route(site.put(models.raising())))
    gateway.http.post(gateway.path, content=b"no JSON")
    gateway.infer(np.full((1, 4), 3, np.float32))
    gateway.http.post("/v2/models/digits/versions/1/infer", content=make_body(ROW / 9))
    gateway.http.post("/invocations", json={"inputs": (ROW / 9).tolist()})
    refused, failed, pinned, invoked = exported.get_finished_spans()
    assert refused.attributes["http.response.status_code"] == 400
    assert refused.status.status_code == StatusCode.UNSET
    assert "error.type" not in refused.attributes
    assert failed.attributes["http.response.status_code"] == 500
    assert failed.status.status_code == StatusCode.ERROR
    assert failed.attributes["stillhouse.arm"] == "champion"
    assert pinned.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert (invoked.name, invoked.attributes["stillhouse.model"]) == ("POST /invocations", "digits")


@pytest.mark.parametrize(("error", "kind"), [(ClientGoneError(), "client_gone"), (ZeroDivisionError(), "500")])
async def test_a_span_ends_when_the_endpoint_raises(error, kind):
    exporter = InMemorySpanExporter()

    async def endpoint(scope, receive):
        raise error

    scope = {"method": "POST", "path": "/invocations", "path_params": {}, "headers": []}
    with pytest.raises(type(error)):
        await Tracing("r", SimpleSpanProcessor(exporter)).traced(endpoint)(scope, None)
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == kind


def test_the_environments_name_of_the_service_is_taken(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    exporter = InMemorySpanExporter()
    made = Tracing("r", SimpleSpanProcessor(exporter))
    made._tracer.start_span("x").end()
    attributes = exporter.get_finished_spans()[0].resource.attributes
    assert (attributes["service.name"], attributes["deployment.environment"]) == ("shop", "test")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf only"),
        ("OTEL_TRACES_EXPORTER", "otlp", "opentelemetry-exporter-otlp-proto-http"),
    ],
)
def test_an_exporter_that_is_not_there_ends_the_process_with_2_and_a_remedy(
    monkeypatch, capsys, tmp_path, name, value, message
):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        Tracing.from_environment("r")
    assert main(["--tracing", "--port", "0", "--store", str(tmp_path), "--traffic", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_the_otlp_exporter_is_used_when_it_is_installed(monkeypatch):
    module = types.ModuleType("trace_exporter")
    module.OTLPSpanExporter = InMemorySpanExporter
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", module)
    assert isinstance(tracing._exporter("otlp"), InMemorySpanExporter)
    assert tracing._exporter("none") is None


def test_a_gateway_without_tracing_imports_nothing_of_opentelemetry():
    code = (
        "import sys; from infra.gateway.config import GatewayConfig; from infra.gateway.server import GatewayServer; "
        "GatewayServer(GatewayConfig(store='s', traffic='t', port=0)); "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
