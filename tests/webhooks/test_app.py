import json
import threading
import time

import pytest
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.webhooks.constants import (
    WEBHOOK_DELIVERY_ID_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
    WEBHOOK_TIMESTAMP_HEADER,
)
from mlflow.webhooks.delivery import _generate_hmac_signature
from mlflow.webhooks.types import get_example_payload_for_event
from pydantic import SecretStr
from starlette.testclient import TestClient

from infra.webhooks.app import PATH, ReceiverLimits, create_app

SECRET = "a secret of enough length"
ALIAS_CREATED = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)
WAIT_S = 10.0


class Reconciler:
    """Notes the models, and lets the test wait for them."""

    def __init__(self):
        self.names = []
        self._called = threading.Semaphore(0)
        self.free = threading.Event()
        self.free.set()

    def __call__(self, name):
        self.names.append(name)
        self._called.release()
        assert self.free.wait(WAIT_S)

    def wait(self):
        assert self._called.acquire(timeout=WAIT_S)


@pytest.fixture
def reconciler():
    return Reconciler()


@pytest.fixture
def client(reconciler):
    limits = ReceiverLimits(max_body_bytes=2_000, max_waiting=1)
    with TestClient(create_app(SecretStr(SECRET), reconciler, limits)) as client:
        yield client
        reconciler.free.set()


def event_body(name="digits", event=ALIAS_CREATED):
    payload = get_example_payload_for_event(event) | {"name": name}
    return json.dumps({"entity": str(event.entity), "action": str(event.action), "data": payload})


def send(client, body=None, delivery="d-1", secret=SECRET, age_s=0):
    body = body or event_body()
    timestamp = str(int(time.time()) - age_s)
    headers = {
        "Content-Type": "application/json", WEBHOOK_DELIVERY_ID_HEADER: delivery, WEBHOOK_TIMESTAMP_HEADER: timestamp,
        WEBHOOK_SIGNATURE_HEADER: _generate_hmac_signature(secret, delivery, timestamp, body),
    }  # fmt: skip
    return client.post(PATH, content=body.encode(), headers=headers)


def test_a_signed_event_is_accepted_at_once_and_reconciled_in_the_background(client, reconciler):
    reconciler.free.clear()

    assert send(client).status_code == 202
    reconciler.wait()

    assert reconciler.names == ["digits"]
    assert client.get("/health").json() == {"status": "ok", "waiting": 0, "deliveries": {"accepted": 1}}


def test_a_delivery_that_comes_again_is_answered_and_does_nothing(client, reconciler):
    send(client)
    again = send(client)

    assert (again.status_code, again.json()) == (200, {"status": "seen before"})
    send(client, event_body("letters"), delivery="d-2")
    reconciler.wait(), reconciler.wait()
    assert reconciler.names == ["digits", "letters"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"secret": "another secret of that length"}, 401),
        ({"age_s": 301}, 401),
        ({"age_s": -301}, 401),
        ({"body": "x" * 2_001}, 413),
        ({"body": "[1, 2"}, 400),
    ],
)
def test_a_delivery_is_refused_with_the_reason_and_nothing_is_reconciled(client, reconciler, changes, status):
    answer = send(client, **changes)

    assert answer.status_code == status
    assert answer.json()["error"]
    assert SECRET not in answer.text
    assert client.get("/health").json()["deliveries"] == {f"refused {status}": 1}
    assert send(client).status_code == 202  # a refused delivery's id does not count as seen
    reconciler.wait()
    assert reconciler.names == ["digits"]


def test_an_unsigned_request_is_refused(client):
    assert client.post(PATH, content=event_body()).status_code == 401


def test_a_body_of_undeclared_length_is_refused_as_soon_as_it_is_too_long(client):
    read = []

    def endless():
        for number in range(1_000):
            read.append(number)
            yield b"x" * 500

    assert client.post(PATH, content=endless()).status_code == 413


@pytest.mark.parametrize(
    "event",
    [
        WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED),
        WebhookEvent(WebhookEntity.PROMPT_ALIAS, WebhookAction.CREATED),
    ],
)
def test_an_event_that_is_nothing_to_us_is_answered_with_200_so_that_it_is_not_sent_again(client, reconciler, event):
    answer = send(client, event_body(event=event))

    assert (answer.status_code, answer.json()) == (200, {"status": "ignored"})
    assert reconciler.names == []


def test_a_full_queue_asks_for_the_delivery_again_and_takes_it_then(client, reconciler):
    reconciler.free.clear()
    send(client, event_body("a"), delivery="d-1")
    reconciler.wait()
    send(client, event_body("b"), delivery="d-2")
    full = send(client, event_body("c"), delivery="d-3")
    assert (full.status_code, full.headers["retry-after"]) == (503, "5")

    reconciler.free.set()
    reconciler.wait()
    assert send(client, event_body("c"), delivery="d-3").status_code == 202
    reconciler.wait()
    assert reconciler.names == ["a", "b", "c"]


def test_only_posts_are_taken_and_only_there(client):
    assert client.get(PATH).status_code == 405
    assert client.post("/", content=b"{}").status_code == 404


@pytest.mark.parametrize("secret", ["", "short"])
def test_create_app_refuses_a_secret_that_guards_nothing(secret, reconciler):
    with pytest.raises(ValueError, match="fewer than 16 characters"):
        create_app(SecretStr(secret), reconciler)
