"""Which models an event is about, of those events that can part a model's registry from its ledger."""

import json
import re

from infra.webhooks.delivery import RefusedError

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_OF_INTEREST = (
    ["model_version_alias", "created"],
    ["model_version_alias", "deleted"],
    ["model_version_tag", "set"],
    ["model_version_tag", "deleted"],
)


def concerned_model(body: bytes) -> str | None:
    """Return the model that an event is about; None for an event, or a name, that is nothing to us.

    Raises:
        RefusedError: 400, the body is no event of MLflow's.
    """
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        raise RefusedError(400, "the body is not an event of MLflow's: it has no object `data`")
    if [event.get("entity"), event.get("action")] not in _OF_INTEREST:
        return None
    name = event["data"].get("name")
    if not isinstance(name, str):
        raise RefusedError(400, "the event does not name its model")
    return name if _MODEL_NAME.fullmatch(name) else None
