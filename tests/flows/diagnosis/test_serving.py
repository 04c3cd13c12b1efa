from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flows.diagnosis import serving
from flows.diagnosis.finding import Finding
from tasks.adapters.route_store import RouteStore, VersionedRoute
from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.route import Arm, ModelSignature, Route, RouteAcknowledgement
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings, current_settings

SIGNATURE = ModelSignature(task="classification", input_shape=(2,), input_dtype="float32", class_names=("a", "b"))
ROUTE = Route(model_name="digits", signature=SIGNATURE, champion=Arm(digest="a" * 64, version=1))
CURRENT = VersionedRoute(7, ROUTE)


def heard(replica: str, version: int = 7, ready: bool = True, age_s: float = 1.0) -> RouteAcknowledgement:
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    message = "" if ready else "no memory"
    return RouteAcknowledgement(
        model_name="digits", replica=replica, route_version=version, ready=ready, message=message, at=at
    )


@pytest.mark.parametrize(
    ("replicas", "unsigned", "state", "detail"),
    [
        ([("a",), ("b", 8)], [], "ok", "digits: route version 7, acknowledged by a, b"),
        ([("a",), ("b", 6)], [], "broken", "digits: route version 7, b still serves version 6"),
        ([("a", 7, False)], [], "broken", "digits: route version 7, a is not ready: no memory"),
        ([("a",), ("b", 7, True, 60)], [], "note", "digits: route version 7, acknowledged by a; silent: b"),
        ([("a", 7, True, 60)], [], "note", "no live replica (1 were, and are silent, within 30 s)"),
        ([], [], "note", "no live replica (none ever was, within 30 s)"),
        ([("a",)], ["version 1 (unsigned)"], "broken", "digits: route version 7, unsigned: version 1 (unsigned)"),
    ],
)
def test_judge_replicas_tells_who_is_behind_silent_or_not_ready(
    replicas: list[tuple[Any, ...]], unsigned: list[str], state: str, detail: str
) -> None:
    found = serving.judge_replicas(CURRENT, [heard(*one) for one in replicas], unsigned)

    assert found.state == state
    assert detail in found.detail
    assert bool(found.remedy) is (state != "ok")


def test_together_shows_the_models_that_are_not_well() -> None:
    well, ill = Finding("replicas", "ok", "a"), Finding("replicas", "note", "b", "look")

    assert serving.together([]).detail == "no model has a route yet"
    assert serving.together([well, well]).detail == "a | a"
    found = serving.together([well, ill, ill])
    assert (found.state, found.detail, found.remedy) == ("note", "b | b", "look")


def test_replicas_asks_for_signatures_where_they_are_wanted(tmp_path: Path) -> None:
    make_key_pair(tmp_path / "own.pem", tmp_path / "own.pub.pem")
    services = connect(Settings(home=tmp_path / "home", verify_keys=tmp_path / "own.pub.pem"))
    assert serving.replicas(services).state == "ok"
    RouteStore(services.documents, services.acknowledgements).publish(ROUTE, 0)

    found = serving.replicas(services)

    assert (found.state, "version 1" in found.detail) == ("broken", True)
    assert "stillhouse model sign digits" in found.remedy


def test_a_gateway_that_is_not_there_is_a_note_since_a_run_starts_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_GATEWAY_URL", "http://ann:secret@127.0.0.1:9")
    current_settings.cache_clear()
    connect.cache_clear()

    found = serving.gateway(connect())

    assert found.state == "note"
    assert "starts one" in found.remedy
    assert "secret" not in found.detail


def test_signing_tells_a_key_that_nobody_trusts_before_a_run_fails_by_it(tmp_path: Path) -> None:
    own = make_key_pair(tmp_path / "own.pem", tmp_path / "own.pub.pem")
    other = make_key_pair(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    key = SecretStr(str(tmp_path / "own.pem"))

    def found(signing: SecretStr | None, trusted: str | None) -> Finding:
        keys = tmp_path / trusted if trusted else None
        return serving.signing(connect(Settings(home=tmp_path, signing_key=signing, verify_keys=keys)))

    assert (found(None, None).state, found(key, None).state) == ("note", "ok")
    assert found(key, "own.pub.pem").detail == f"key {own} signs and is trusted"
    assert (found(None, "own.pub.pem").state, found(key, "other.pub.pem").state) == ("note", "broken")
    assert other in found(key, "other.pub.pem").detail
