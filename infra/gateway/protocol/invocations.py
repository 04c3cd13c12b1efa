"""MLflow's scoring protocol: rows as nested lists, without names and types."""

from typing import Any

from infra.gateway.errors import RequestError
from infra.gateway.protocol.documents import load_object, may_hold_booleans
from infra.gateway.protocol.identifiers import new_id
from infra.gateway.protocol.messages import InferRequest, WantedOutputs
from infra.gateway.protocol.tensors import TensorReader


def parse_invocation(body: bytes, reader: TensorReader) -> InferRequest:
    """Parse what MLflow's scoring servers take: `{"inputs": rows}` or `{"instances": rows}`.

    Rows are nested lists of the model's shape, or an object that names the input and holds them.

    Raises:
        RequestError: 400, with what is wrong and what is expected.
    """
    rows = _rows(load_object(body), reader)
    tensor = reader.rows(rows, len(rows), may_hold_booleans=may_hold_booleans(body))
    return InferRequest(new_id(), tensor, WantedOutputs(), as_predictions=True)


def _rows(document: dict[str, Any], reader: TensorReader) -> list[Any]:
    given = [document[name] for name in ("inputs", "instances") if name in document]
    if len(given) != 1:
        raise RequestError(400, 'send {"inputs": rows} or {"instances": rows}; data frames are not supported')
    rows = given[0]
    if type(rows) is dict:
        if list(rows) != [reader.input_name]:
            raise RequestError(400, f"unknown input; this model takes one tensor named '{reader.input_name}'")
        rows = rows[reader.input_name]
    if type(rows) is not list or not 1 <= len(rows) <= reader.max_rows or type(rows[0]) is not list:
        raise RequestError(400, f"rows must be a list of 1 to {reader.max_rows} nested lists")
    return rows
