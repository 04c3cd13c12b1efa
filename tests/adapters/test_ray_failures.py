import logging
from typing import Any

import pytest

from tasks.adapters.ray_failures import FailedNodes, may_be_of_the_node
from tasks.contracts.resources import Resources
from tasks.runtime.isolation import StageCall

_CALL = StageCall(function="a:train", arguments={"seed": 1}, resources=Resources(num_gpus=1))
_OTHER = StageCall(function="a:train", arguments={"seed": 2}, resources=Resources(num_gpus=1))


def node(name: str, *, alive: bool = True, gpus: float = 1.0) -> dict[str, Any]:
    """What `ray.nodes()` says of a node; one without GPUs does not name them."""
    resources = {"CPU": 8.0} | ({"GPU": gpus} if gpus else {})
    return {"NodeID": name, "Alive": alive, "Resources": resources, "NodeManagerHostname": f"host-{name}"}


def test_a_call_is_kept_off_the_nodes_that_it_failed_on_and_off_no_others(caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedNodes()
    failed.add(_CALL, ["b"])
    failed.add(_CALL.model_copy(), ["a"])  # a retry makes the call anew

    with caplog.at_level(logging.INFO):
        assert failed.avoided(_CALL, lambda: [node("a"), node("b"), node("c")]) == ["a", "b"]
    assert "a:train is tried elsewhere than on host-a, host-b, where it failed" in caplog.text
    assert failed.avoided(_OTHER, lambda: [node("a"), node("b")]) == ()


def test_the_cluster_is_asked_only_for_what_has_failed() -> None:
    asked: list[str] = []

    def cluster() -> list[dict[str, Any]]:
        asked.append("asked")
        return [node("a"), node("b")]

    failed = FailedNodes()
    failed.avoided(_CALL, cluster)
    assert asked == []
    failed.add(_CALL, ["a"])
    failed.avoided(_CALL, cluster)
    assert asked == ["asked"]


@pytest.mark.parametrize(
    "others",
    [[], [node("b", alive=False)], [node("b", gpus=0.0)], [node("b", gpus=0.5)]],
    ids=["no other node", "it is dead", "it has no GPU", "it has half a GPU"],
)
def test_a_call_may_go_where_it_failed_when_nothing_else_offers_what_it_asks_for(others: list[dict[str, Any]]) -> None:
    failed = FailedNodes()
    failed.add(_CALL, ["a"])
    assert failed.avoided(_CALL, lambda: [node("a"), *others]) == ()
    # and then begins anew: `a` is as good as any
    assert failed.avoided(_CALL, lambda: [node("a"), node("c")]) == ()


def test_a_node_that_is_gone_need_not_be_avoided() -> None:
    failed = FailedNodes()
    failed.add(_CALL, ["a"])
    assert failed.avoided(_CALL, lambda: [node("a", alive=False), node("b")]) == []


def test_what_succeeded_may_go_anywhere_again() -> None:
    failed = FailedNodes()
    failed.add(_CALL, ["a"])
    failed.forget(_CALL)
    assert failed.avoided(_CALL, lambda: [node("a"), node("b")]) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DiskFullError", True),
        ("WorkerLostError", True),
        ("WorkerMismatchError", True),
        ("ServiceUnavailableError", True),
        ("DataError", False),
        ("ZeroDivisionError", False),
        ("errno", False),
        ("ran_out_of_disk", False),
    ],
)
def test_another_node_is_tried_for_what_failed_outside_of_the_stage(name: str, expected: bool) -> None:
    assert may_be_of_the_node({"error": {"class": name, "message": "", "traceback": ""}}) is expected
