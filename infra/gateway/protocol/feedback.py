"""Labels that come after the answer."""

from typing import Any

from infra.gateway.errors import RequestError
from infra.gateway.protocol.documents import load_object
from infra.gateway.protocol.identifiers import request_id_of
from infra.gateway.protocol.messages import Feedback
from tasks.contracts.route import ModelSignature


def parse_feedback(body: bytes, signature: ModelSignature, max_batch_rows: int) -> Feedback:
    """Parse `{"id": ..., "labels": [...]}`: a label per row, null where it is not known.

    Raises:
        RequestError: 400, with what is wrong and what is expected.
    """
    document = load_object(body)
    if document.get("id") is None:
        raise RequestError(400, "feedback needs the 'id' of the request that it is about")
    request_id = request_id_of(document)
    labels = document.get("labels")
    if type(labels) is not list or not 1 <= len(labels) <= max_batch_rows:
        raise RequestError(400, f"'labels' must be a list of 1 to {max_batch_rows} labels, one for each row")
    return Feedback(request_id, [_label(label, signature) for label in labels])


def _label(label: Any, signature: ModelSignature) -> float | None:
    if label is None:
        return None
    if signature.task == "regression":
        if type(label) not in (int, float):
            raise RequestError(400, "a label must be a number or null")
        return float(label)
    if type(label) is not int or not 0 <= label < len(signature.class_names):
        raise RequestError(400, f"a label must be a class index from 0 to {len(signature.class_names) - 1}, or null")
    return float(label)
