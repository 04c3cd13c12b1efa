import pytest
from mlflow.webhooks.constants import (
    WEBHOOK_DELIVERY_ID_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
    WEBHOOK_TIMESTAMP_HEADER,
)
from mlflow.webhooks.delivery import _generate_hmac_signature
from starlette.datastructures import Headers

from infra.webhooks.delivery import RefusedError, SeenDeliveries, verified_id

SECRET = "a secret of enough length"
BODY = '{"entity": "model_version_alias", "data": {"name": "größer"}}'
NOW = 1_767_268_800


def headers(delivery="d-1", timestamp=str(NOW), secret=SECRET, body=BODY, **changes):
    """What MLflow sends, signed by MLflow's own function."""
    values = {
        WEBHOOK_DELIVERY_ID_HEADER: delivery,
        WEBHOOK_TIMESTAMP_HEADER: timestamp,
        WEBHOOK_SIGNATURE_HEADER: _generate_hmac_signature(secret, delivery, timestamp, body),
    } | changes
    return Headers({name: value for name, value in values.items() if value is not None})


def verify(given, body=BODY, now=NOW):
    return verified_id(given, body.encode(), SECRET, now, 300.0)


def test_verified_id_accepts_what_mlflow_signs():
    assert verify(headers()) == "d-1"


def test_verified_id_accepts_one_of_several_signatures():
    old, new = (headers(secret=secret)[WEBHOOK_SIGNATURE_HEADER] for secret in ("another", SECRET))

    assert verify(headers(**{WEBHOOK_SIGNATURE_HEADER: f"{old} v2,AAAA v1,=== {new}"})) == "d-1"


@pytest.mark.parametrize(
    "given",
    [
        headers(secret="another secret"),
        headers(body=BODY.replace("alias", "other")),
        headers(**{WEBHOOK_DELIVERY_ID_HEADER: "d-2"}),
        headers(**{WEBHOOK_TIMESTAMP_HEADER: str(NOW + 1)}),
        headers(**{WEBHOOK_SIGNATURE_HEADER: "v1,"}),
        headers(**{WEBHOOK_SIGNATURE_HEADER: "v2," + headers()[WEBHOOK_SIGNATURE_HEADER][3:]}),
        headers(**{WEBHOOK_SIGNATURE_HEADER: "v1,not base64"}),
    ],
)
def test_verified_id_refuses_when_anything_that_was_signed_differs(given):
    with pytest.raises(RefusedError, match="the signature is not of this body") as caught:
        verify(given)
    assert caught.value.status == 401
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("name", [WEBHOOK_SIGNATURE_HEADER, WEBHOOK_DELIVERY_ID_HEADER, WEBHOOK_TIMESTAMP_HEADER])
def test_verified_id_refuses_when_a_header_is_missing(name):
    with pytest.raises(RefusedError, match="is missing"):
        verify(headers(**{name: None}))


@pytest.mark.parametrize(
    ("now", "taken"), [(NOW + 300, True), (NOW - 300, True), (NOW + 301, False), (NOW - 301, False)]
)
def test_verified_id_refuses_outside_of_the_window(now, taken):
    if taken:
        assert verify(headers(), now=now) == "d-1"
    else:
        with pytest.raises(RefusedError, match="more than 300 s away"):
            verify(headers(), now=now)


@pytest.mark.parametrize("timestamp", ["nan", "1e9", "-1", "١٢٣", "0x10"])
def test_verified_id_refuses_a_time_stamp_that_is_no_number_though_signed(timestamp):
    given = {name.lower(): value for name, value in {
        WEBHOOK_DELIVERY_ID_HEADER: "d-1", WEBHOOK_TIMESTAMP_HEADER: timestamp,
        WEBHOOK_SIGNATURE_HEADER: _generate_hmac_signature(SECRET, "d-1", timestamp, BODY),
    }.items()}  # fmt: skip

    with pytest.raises(RefusedError, match="time stamp"):
        verify(given)


def test_seen_deliveries_are_forgotten_when_their_time_stamp_would_be_refused():
    seen = SeenDeliveries(window_s=300)
    seen.add("a", 0.0)
    seen.add("b", 600.0)
    assert "a" in seen
    seen.add("c", 601.0)

    assert [name in seen for name in "abc"] == [False, True, True]


def test_seen_deliveries_forget_the_oldest_beyond_their_limit():
    seen = SeenDeliveries(window_s=300, limit=2)
    for name in "abc":
        seen.add(name, 0.0)

    assert [name in seen for name in "abc"] == [False, True, True]
