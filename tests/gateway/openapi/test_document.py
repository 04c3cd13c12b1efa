import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from infra.gateway.admission import Admission
from infra.gateway.app import create_app
from infra.gateway.config import GatewayConfig
from infra.gateway.openapi.document import openapi_document, openapi_json


@pytest.fixture
def routes(tmp_path):
    """{(method, path): role} of the application."""
    config = GatewayConfig(store=tmp_path / "store", traffic=tmp_path / "traffic")
    app = create_app(config, Admission(num_threads=1, max_queue=1, max_uploads=1, deadline_s=1.0))
    return {
        (method.lower(), route.path): route.endpoint.role
        for route in app.routes
        for method in route.methods
        if method != "HEAD"
    }


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield (method, path), operation


def test_the_document_is_valid():
    OpenAPIV31SpecValidator(openapi_document("1")).validate()


def test_the_document_describes_every_route_and_no_other(routes):
    assert {name for name, _ in operations(openapi_document("1"))} == set(routes)


def test_the_document_asks_for_the_role_that_the_route_asks_for(routes):
    asked = {name: operation["security"] for name, operation in operations(openapi_document("1"))}
    assert asked == {name: [{"token": [role]}, {}] if role else [] for name, role in routes.items()}


def test_the_document_defines_nothing_that_it_does_not_use():
    document = openapi_document("1")
    text = orjson.dumps(document).decode()
    for kind in ("schemas", "headers", "responses"):
        unused = [name for name in document["components"][kind] if f"#/components/{kind}/{name}" not in text]
        assert unused == [], kind


def test_the_document_is_what_the_gateway_gives(start):
    reply = start().http.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["openapi"] == "3.1.0"
    assert reply.content == openapi_json(reply.json()["info"]["version"])
