"""The forms of bodies, as JSON Schema. What depends on the model served is told by its metadata, not here."""

from typing import Any

from infra.gateway.protocol.identifiers import MAX_ID_LENGTH
from infra.gateway.protocol.messages import DATATYPES

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], properties: dict[str, Any], description: str = "") -> Schema:
    described = {"description": description} if description else {}
    return {"type": "object", "required": required, "properties": properties} | described


def _list(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items} | bounds


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_ID: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_LENGTH,
    "pattern": "^[ -~]+$",
    "description": "Printable ASCII. Feedback refers to it. Made up where it is not given.",
}
_DATATYPE: Schema = {"type": "string", "enum": sorted(DATATYPES.values())}
_BINARY_SIZE: Schema = _object(
    ["binary_data_size"],
    {"binary_data_size": _COUNT | {"description": "Bytes that follow the JSON instead of `data`."}},
)
_NESTED: Schema = _list(
    {"anyOf": [_NUMBER, {"type": "array"}]}, minItems=1
) | {"description": "Numbers in row-major order, or lists nested as `shape` says."}  # fmt: skip
_FLAG: Schema = {"type": "boolean", "default": False}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(["error"], {"error": _TEXT}, "Why; nothing of the input is repeated."),
    "InferRequest": _object(
        ["inputs"],
        {
            "id": {"anyOf": [_ID, {"type": "null"}]},
            "parameters": {
                "anyOf": [
                    _object([], {"binary_data_output": _FLAG | {"description": "Every output as bytes."}}),
                    {"type": "null"},
                ]
            },
            "inputs": _list(ref("InputTensor"), minItems=1, maxItems=1),
            "outputs": {"anyOf": [_list(ref("WantedOutput")), {"type": "null"}]},
        },
    ),
    "InputTensor": _object(
        ["name", "datatype", "shape"],
        {
            "name": _TEXT,
            "datatype": {"type": "string", "enum": ["FP32", "INT64"]},
            "shape": _list({"type": "integer", "minimum": 1}, minItems=1)
            | {"description": "The first axis is the rows."},
            "data": _NESTED,
            "parameters": {"anyOf": [_BINARY_SIZE | {"required": []}, {"type": "null"}]},
        },
        "As the model's metadata says, with any number of rows up to the gateway's bound.",
    ),
    "WantedOutput": _object(
        ["name"],
        {
            "name": _TEXT,
            "parameters": {
                "anyOf": [
                    _object([], {"binary_data": _FLAG | {"description": "This output as bytes."}}),
                    {"type": "null"},
                ]
            },
        },
    ),
    "InferResponse": _object(
        ["model_name", "model_version", "id", "outputs"],
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _ID,
            "outputs": _list(ref("OutputTensor")),
        },
    ),
    "OutputTensor": _object(
        ["name", "datatype", "shape"],
        {
            "name": _TEXT,
            "datatype": _DATATYPE,
            "shape": _list(_COUNT),
            "data": _list({"type": ["number", "boolean"]}),
            "parameters": _BINARY_SIZE,
        },
    ),
    "Invocation": {
        "description": "Rows as lists nested as the model's shape, or an object that names the input and holds them.",
        "oneOf": [
            _object([name], {name: {"anyOf": [_NESTED, {"type": "object", "additionalProperties": _NESTED}]}})
            for name in ("inputs", "instances")
        ],
    },
    "Predictions": _object(["predictions"], {"predictions": _list({"anyOf": [_NUMBER, {"type": "array"}]})}),
    "Feedback": _object(
        ["id", "labels"],
        {
            "id": _ID | {"description": "Of the request that the labels are for."},
            "labels": _list({"type": ["number", "null"]}, minItems=1)
            | {"description": "One for each row, null where it is not known: class index, or value for regression."},
        },
    ),
    "FeedbackAccepted": _object(["id", "accepted"], {"id": _ID, "accepted": _COUNT}),
    "ServerMetadata": _object(
        ["name", "version", "extensions"], {"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}
    ),
    "Live": _object(["live"], {"live": {"type": "boolean"}}),
    "Ready": _object(["ready", "models"], {"ready": {"type": "boolean"}, "models": _list(_TEXT)}),
    "ModelReady": _object(["name", "ready"], {"name": _TEXT, "ready": {"type": "boolean"}}),
    "ModelMetadata": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(ref("TensorMetadata")),
            "outputs": _list(ref("TensorMetadata")),
        },
    ),
    "TensorMetadata": _object(
        ["name", "datatype", "shape"],
        {"name": _TEXT, "datatype": _DATATYPE, "shape": _list({"type": "integer", "minimum": -1})},
    ),
    "ModelStatistics": _object(["model_stats"], {"model_stats": _list(ref("VersionStatistics"))}),
    "VersionStatistics": _object(
        ["name", "version", "last_inference", "inference_count", "execution_count", "inference_stats"],
        {
            "name": _TEXT,
            "version": _TEXT,
            "last_inference": _COUNT | {"description": "Milliseconds since the epoch."},
            "inference_count": _COUNT | {"description": "Rows."},
            "execution_count": _COUNT | {"description": "Runs."},
            "inference_stats": _object(["success", "fail"], {"success": ref("Duration"), "fail": ref("Duration")}),
        },
    ),
    "Duration": _object(["count", "ns"], {"count": _COUNT, "ns": _COUNT}),
}
