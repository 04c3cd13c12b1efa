import json

import pytest
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.webhooks.types import get_example_payload_for_event

from infra.webhooks.delivery import RefusedError
from infra.webhooks.event import concerned_model


def body(entity, action, **data):
    """What MLflow sends of an event, with its own example as the data."""
    event = WebhookEvent(WebhookEntity(entity), WebhookAction(action))
    payload = get_example_payload_for_event(event) | data
    return json.dumps(
        {"entity": entity, "action": action, "timestamp": "2026-01-01T00:00:00", "data": payload}
    ).encode()


@pytest.mark.parametrize(
    ("entity", "action"),
    [
        ("model_version_alias", "created"),
        ("model_version_alias", "deleted"),
        ("model_version_tag", "set"),
        ("model_version_tag", "deleted"),
    ],
)
def test_concerned_model_is_named_by_events_of_aliases_and_tags(entity, action):
    assert concerned_model(body(entity, action, name="digits")) == "digits"


@pytest.mark.parametrize(
    ("entity", "action"),
    [("registered_model", "created"), ("model_version", "created"), ("prompt_alias", "created"), ("prompt", "created")],
)
def test_concerned_model_is_none_for_other_events(entity, action):
    assert concerned_model(body(entity, action, name="digits")) is None


@pytest.mark.parametrize("event", [{"entity": "model_version_alias", "action": "renamed", "data": {"name": "a"}},
                                   {"entity": ["x"], "action": {"y": 1}, "data": {}}, {"data": {}}])  # fmt: skip
def test_concerned_model_is_none_for_events_that_are_not_known_yet(event):
    assert concerned_model(json.dumps(event).encode()) is None


@pytest.mark.parametrize("name", ["Example_Model", "../../etc", "a" * 64, "", "digits\n"])
def test_concerned_model_is_none_when_the_name_is_none_of_ours(name):
    assert concerned_model(body("model_version_alias", "created", name=name)) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"null", b"{}", b'{"data": 1}', b"[" * 100_000,
     b'{"entity": "model_version_alias", "action": "created", "data": {}}',
     b'{"entity": "model_version_alias", "action": "created", "data": {"name": 1}}'],
)  # fmt: skip
def test_concerned_model_refuses_what_is_no_event(content):
    with pytest.raises(RefusedError) as caught:
        concerned_model(content)
    assert caught.value.status == 400
