import threading
from datetime import UTC, datetime, timedelta

import pytest

from tasks.adapters.local_store import LocalAcknowledgements, LocalDocuments
from tasks.adapters.route_store import LIVE_FOR, RouteStore
from tasks.contracts.errors import (
    DocumentConflictError,
    InfrastructureError,
    ModelError,
    ServiceUnavailableError,
)
from tasks.contracts.route import Arm, ModelSignature, Route, RouteAcknowledgement

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b"))
ROUTE = Route(model_name="digits", signature=SIGNATURE, champion=Arm(digest="a" * 64, version=1))


@pytest.fixture
def routes(tmp_path):
    return RouteStore(LocalDocuments(tmp_path), LocalAcknowledgements(tmp_path))


@pytest.fixture
def acknowledge(tmp_path):
    def write(replica, version, *, ready=True, message="", age_s=0.0):
        at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        heard = RouteAcknowledgement(
            model_name="digits", replica=replica, route_version=version, ready=ready, message=message, at=at
        )
        path = tmp_path / "acknowledgements" / "digits" / f"{replica}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(heard.canonical_json())

    return write


def test_current_is_none_when_the_model_has_no_route(routes):
    assert routes.current("digits") is None


def test_publish_numbers_routes_and_current_reads_them_back_when_the_route_changes(routes):
    shadow = ROUTE.model_copy(update={"challenger": Arm(digest="b" * 64, version=2), "shadow": True})

    assert routes.publish(ROUTE, 0).version == 1
    assert routes.publish(shadow, 1).version == 2
    assert routes.current("digits").route == shadow


def test_publish_changes_nothing_when_the_newest_version_says_the_same(routes):
    routes.publish(ROUTE, 0)

    assert routes.publish(ROUTE, 0).version == 1
    assert routes.current("digits").version == 1


def test_publish_refuses_when_another_writer_was_first(routes):
    routes.publish(ROUTE, 0)
    other = ROUTE.model_copy(update={"champion": Arm(digest="c" * 64, version=3)})

    with pytest.raises(DocumentConflictError):
        routes.publish(other, 0)
    assert routes.current("digits").route == ROUTE


def test_current_names_the_document_when_it_is_not_a_route(routes, tmp_path):
    LocalDocuments(tmp_path).append("routes/digits", b"{}", 0)

    with pytest.raises(InfrastructureError, match="version 1 of document routes/digits"):
        routes.current("digits")


def test_wait_returns_when_every_live_replica_serves_the_version(routes, acknowledge):
    acknowledge("one", 3)
    acknowledge("two", 4)
    acknowledge("gone", 1, age_s=LIVE_FOR.total_seconds() + 5)

    ready = routes.wait_for_acknowledgement("digits", 3, timeout_s=0)

    assert [heard.replica for heard in ready] == ["one", "two"]


def test_wait_goes_on_when_a_replica_answers_later(routes, acknowledge):
    acknowledge("one", 2)
    later = threading.Timer(0.2, lambda: acknowledge("one", 3))
    later.start()

    ready = routes.wait_for_acknowledgement("digits", 3, timeout_s=20, poll_s=0.02)

    later.join()
    assert [heard.route_version for heard in ready] == [3]


def test_wait_names_who_is_behind_when_time_is_up(routes, acknowledge):
    acknowledge("one", 3)
    acknowledge("two", 2)

    with pytest.raises(ServiceUnavailableError, match="two at version 2"):
        routes.wait_for_acknowledgement("digits", 3, timeout_s=0)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_wait_says_to_start_a_gateway_when_too_few_are_live(routes, acknowledge, num_replicas):
    if num_replicas == 2:
        acknowledge("one", 3)

    with pytest.raises(ServiceUnavailableError, match="stillhouse serve"):
        routes.wait_for_acknowledgement("digits", 3, timeout_s=0, num_replicas=num_replicas)


def test_wait_gives_the_replicas_reason_when_it_cannot_load_the_version(routes, acknowledge):
    acknowledge("one", 3, ready=False, message="artifact bbb is damaged")

    with pytest.raises(ModelError, match="one: artifact bbb is damaged"):
        routes.wait_for_acknowledgement("digits", 3, timeout_s=0)


def test_acknowledgements_names_the_file_when_it_is_damaged(routes, acknowledge, tmp_path):
    acknowledge("one", 3)
    path = tmp_path / "acknowledgements" / "digits" / "one.json"
    path.write_bytes(b"{")

    with pytest.raises(InfrastructureError, match=r"one\.json"):
        routes.acknowledgements("digits")


def test_why_unserved_is_empty_when_every_live_replica_serves_the_version(routes, acknowledge):
    acknowledge("one", 3)
    acknowledge("two", 4)
    acknowledge("gone", 1, age_s=LIVE_FOR.total_seconds() + 5)

    assert routes.why_unserved("digits", 3) == ""
    assert routes.wait_until_served("digits", 3, timeout_s=20) == ""


def test_why_unserved_names_the_replicas_that_are_behind_or_cannot_load(routes, acknowledge):
    acknowledge("one", 3)
    acknowledge("two", 2)
    acknowledge("three", 3, ready=False, message="artifact bbb is damaged")

    reason = routes.wait_until_served("digits", 3, timeout_s=0)

    assert "two at version 2" in reason
    assert "three cannot: artifact bbb is damaged" in reason
    assert "one" not in reason.partition(": ")[2]


def test_why_unserved_says_so_when_no_replica_is_live(routes, acknowledge):
    acknowledge("gone", 3, age_s=LIVE_FOR.total_seconds() + 5)

    assert "no gateway serves route version 3 of digits: none has renewed" in routes.why_unserved("digits", 3)
    assert "stillhouse serve" in routes.why_unserved("digits", 3)


def test_wait_until_served_goes_on_when_a_replica_answers_later(routes, acknowledge):
    acknowledge("one", 2)
    later = threading.Timer(0.2, lambda: acknowledge("one", 3))
    later.start()

    assert routes.wait_until_served("digits", 3, timeout_s=20, poll_s=0.02) == ""
    later.join()
