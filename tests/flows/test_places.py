"""Places in a parsed plan."""

from typing import Any

import pytest

from flows.places import look_up, put
from tasks.contracts.errors import PlanError


def plan() -> dict[str, Any]:
    return {"seed": 0, "early_stop": None, "candidates": {"small": [{"kind": "prune", "fine_tune": {"epochs": 3}}]}}


@pytest.mark.parametrize(
    "place",
    ["seed", "candidates.small.0.fine_tune.epochs", "candidates.small.0.ratio", "gate.alpha", "early_stop.limit"],
)
def test_put_sets_what_look_up_finds(place: str) -> None:
    document = plan()
    put(document, place, 0.5, "here")
    assert look_up(document, place) == 0.5


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("seed.deeper", "here: there is nothing below 'seed'; the value there is 0"),
        ("seed.deeper.still", "here: there is nothing below 'deeper'"),
        ("candidates.small.1.ratio", r"here: '1' is not a position of a list of 1 \(they start at 0\)"),
        ("candidates.small.first", "here: 'first' is not a position"),
    ],
)
def test_put_says_where_there_is_no_such_place(place: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        put(plan(), place, 1, "here")


@pytest.mark.parametrize("place", ["none", "candidates.small.1", "candidates.small.x", "seed.deeper"])
def test_look_up_raises_where_there_is_no_such_place(place: str) -> None:
    with pytest.raises(KeyError):
        look_up(plan(), place)
