"""What a search may vary: which ranges and lists are ones, and what they take."""

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.decisions.search_policy import Dimension, SearchPolicy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs low and high, or choices"),
        ({"low": 3}, "needs low and high, or choices"),
        ({"low": 3, "high": 3}, "must be below high"),
        ({"low": 0, "high": float("inf")}, "both finite"),
        ({"low": 0, "high": 1, "choices": [1, 2]}, "but not both"),
        ({"choices": [1]}, "at least 2"),
        ({"low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 1}, "and no step"),
        ({"low": 0, "high": 1, "step": 2}, "wider than the range"),
        ({"low": 0, "high": 1, "step": 0}, "greater than 0"),
    ],
)
def test_a_dimension_says_what_is_wrong_with_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dimension(**fields)


@pytest.mark.parametrize(
    ("dimension", "taken", "refused"),
    [
        (Dimension(low=3, high=20), [3, 4.5, 20.0], [2.9, 20.1, "4", True, None]),
        (Dimension(low=0.3, high=0.7, step=0.1), [0.3, 0.4, 0.7, 0.6], [0.35, 0.8]),
        (Dimension(low=1, high=8, step=3), [1, 4, 7], [8, 2, 10]),
        (Dimension(choices=("l1", [1, 2], None)), ["l1", [1, 2], None], ["l2", [2, 1]]),
    ],
)
def test_takes_tells_the_values_of_a_dimension(dimension: Dimension, taken: list[Any], refused: list[Any]) -> None:
    assert [dimension.takes(value) for value in taken] == [True] * len(taken)
    assert [dimension.takes(value) for value in refused] == [False] * len(refused)


def test_limits_are_the_ends_that_are_reached() -> None:
    assert Dimension(low=1, high=8, step=3).limits() == (1, 7)
    assert Dimension(low=0.3, high=0.7, step=0.05).limits() == (0.3, 0.7)
    assert Dimension(choices=(1, 2, 3)).limits() == (1, 2, 3)


def test_a_dimension_is_whole_where_low_and_step_are() -> None:
    assert Dimension(low=1, high=5, step=1).is_whole
    assert not Dimension(low=1, high=5).is_whole
    assert not Dimension(low=1, high=5, step=0.5).is_whole


def test_a_search_that_varies_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"space\.small names no place of the chain"):
        SearchPolicy(space={"small": {}})
