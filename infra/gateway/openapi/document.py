"""The document: every path of the gateway, and what each may answer."""

import functools
from typing import Any

import orjson

from infra.gateway.openapi.pieces import (
    ANSWERED,
    HEADERS,
    INVOKED_MODEL,
    JSON_LENGTH,
    KEY,
    MODEL,
    RESPONSES,
    VERSION,
    Piece,
    json_body,
    operation,
)
from infra.gateway.openapi.schemas import SCHEMAS, ref

_DESCRIPTION = (
    "Open Inference Protocol v2 with binary tensors, MLflow's scoring protocol, feedback and metrics. "
    "HEAD is answered wherever GET is; another method is answered 405, another path 404, both with an `Error`. "
    "What a model takes and gives is told by its metadata: a request that is right here and not there is a 400."
)
_BYTES: Piece = {"application/octet-stream": {"schema": {"type": "string", "contentEncoding": "binary"}}}


@functools.cache
def openapi_json(version: str) -> bytes:
    """Return the document of a gateway of one version, encoded."""
    return orjson.dumps(openapi_document(version))


def openapi_document(version: str) -> dict[str, Any]:
    """Return the document of a gateway of one version."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stillhouse gateway",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {path: methods | {"parameters": _of_path(path)} for path, methods in _paths().items()},
        "components": {
            "schemas": SCHEMAS,
            "headers": HEADERS,
            "responses": RESPONSES,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of the roles infer, feedback and admin; admin allows everything.",
                }
            },
        },
    }


def _paths() -> dict[str, Piece]:
    return {
        "/v2/models/{model}/infer": {"post": _infer("Answer rows, by the arm that the split says.", [KEY])},
        "/v2/models/{model}/versions/{version}/infer": {
            "post": _infer("Answer rows by one version; such a request does not meet the split and is not logged.", [])
        },
        "/v2/models/{model}/feedback": {"post": _feedback()},
        "/invocations": {"post": _invocations()},
        "/ping": {"get": _ready("Tell whether every routed model can answer, as MLflow's servers do.")},
        "/v2": {"get": _open("Tell what this server is.", "ServerMetadata")},
        "/v2/health/live": {"get": _open("Tell that the process runs.", "Live")},
        "/v2/health/ready": {"get": _ready("Tell whether every routed model can answer.")},
        "/v2/models/{model}": {"get": _metadata()},
        "/v2/models/{model}/ready": {"get": _model_ready()},
        "/v2/models/{model}/stats": {"get": _statistics()},
        "/v2/models/{model}/versions/{version}": {"get": _metadata()},
        "/v2/models/{model}/versions/{version}/ready": {"get": _model_ready()},
        "/v2/models/{model}/versions/{version}/stats": {"get": _statistics()},
        "/metrics": {"get": _metrics()},
        "/openapi.json": {"get": _description()},
    }


def _of_path(path: str) -> list[Piece]:
    return [parameter for parameter in (MODEL, VERSION) if f"{{{parameter['name']}}}" in path]


def _infer(summary: str, parameters: list[Piece]) -> Piece:
    headers = ANSWERED | {"Inference-Header-Content-Length": {"$ref": "#/components/headers/JsonLength"}}
    answer = {"description": "The answer.", "headers": headers, "content": json_body("InferResponse") | _BYTES}
    body = json_body("InferRequest") | _BYTES
    return operation(summary, answer, role="infer", parameters=[JSON_LENGTH, *parameters], body=body)


def _feedback() -> Piece:
    answer = {"description": "The labels were taken.", "content": json_body("FeedbackAccepted")}
    return operation("Take the labels of an earlier request.", answer, role="feedback", body=json_body("Feedback"))


def _invocations() -> Piece:
    answer = {"description": "The model's first output.", "headers": ANSWERED, "content": json_body("Predictions")}
    return operation(
        "Answer rows in MLflow's form.",
        answer,
        role="infer",
        parameters=[INVOKED_MODEL, KEY],
        body=json_body("Invocation"),
    )


def _open(summary: str, schema: str) -> Piece:
    answer = {"description": "Yes.", "content": json_body(schema)}
    return operation(summary, answer, role=None, names_model=False)


def _ready(summary: str) -> Piece:
    answer = {"description": "Yes.", "content": json_body("Ready")}
    return operation(summary, answer, role=None, names_model=False, others={503: _unready("Ready")})


def _model_ready() -> Piece:
    answer = {"description": "Yes.", "content": json_body("ModelReady")}
    summary = "Tell whether the model, or this version of it, is loaded."
    return operation(summary, answer, role=None, others={503: _unready("ModelReady")})


def _unready(schema: str) -> Piece:
    content = {"application/json": {"schema": {"anyOf": [ref(schema), ref("Error")]}}}
    headers = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    return {"description": "Not yet, or not any more.", "headers": headers, "content": content}


def _metadata() -> Piece:
    answer = {"description": "What the model takes and gives.", "content": json_body("ModelMetadata")}
    return operation("Describe a model.", answer, role="infer")


def _statistics() -> Piece:
    answer = {"description": "What ran in this process.", "content": json_body("ModelStatistics")}
    return operation("Count what each loaded version has run.", answer, role="admin")


def _metrics() -> Piece:
    content = {"text/plain": {"schema": {"type": "string"}}}
    answer = {"description": "Series in Prometheus' text form.", "content": content}
    return operation("Give the metrics of this process.", answer, role="admin", names_model=False)


def _description() -> Piece:
    answer = {"description": "This document.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return operation("Describe the gateway.", answer, role=None, names_model=False)
