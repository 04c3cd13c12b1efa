"""Drawing chains: the same for the same seed, the plan's own first, within the space, and towards what is wanted."""

from typing import Any

import pytest

from tasks.adapters.optuna_study import Draw, OptunaStudy
from tasks.decisions.pareto import Objective
from tasks.decisions.search_policy import Dimension

QUALITY, SIZE = Objective("quality", "higher"), Objective("size", "lower")
SPACE = {
    "student": {
        "0.temperature": Dimension(low=3, high=20, log=True),
        "0.width": Dimension(choices=([4, 4], [8, 8], [16, 16])),
    },
    "pruned": {"0.ratio": Dimension(low=0.3, high=0.7, step=0.05), "0.rounds": Dimension(low=1, high=7, step=2)},
}


def study(seed: int = 0, own: Any = None) -> OptunaStudy:
    return OptunaStudy(SPACE, own or {}, (QUALITY, SIZE), {"quality": 0.0, "size": 20.0}, seed)


def searched(made: OptunaStudy, rounds: int) -> list[Draw]:
    """Ask for four and tell of four, as a search does; chains pruned by more than half do not get to their end."""
    draws = []
    for _ in range(rounds):
        asked = made.ask(4)
        for one in asked:
            ratio = one.values.get("0.ratio")
            if ratio is not None and ratio > 0.5:
                made.tell(one.number, None, {})
            else:
                value = one.values.get("0.temperature", 20.0)
                made.tell(one.number, {"quality": 20.0 - value, "size": value}, {"loss": value - 10.0})
        draws += asked
    return draws


def test_a_study_draws_the_same_when_it_is_told_the_same() -> None:
    first, again, other = searched(study(1), 8), searched(study(1), 8), searched(study(2), 8)
    assert first == again
    assert [one.values for one in first] != [one.values for one in other]
    assert [one.number for one in first] == list(range(32))


def test_what_is_drawn_lies_in_the_space() -> None:
    draws = searched(study(), 12)
    assert {one.candidate for one in draws} == {"student", "pruned"}
    for one in draws:
        assert one.values.keys() == SPACE[one.candidate].keys()
        assert all(SPACE[one.candidate][place].takes(value) for place, value in one.values.items())


def test_what_is_drawn_can_be_read_by_people() -> None:
    values = [value for one in searched(study(), 8) for value in one.values.values() if isinstance(value, float)]
    assert values
    assert all(len(repr(value)) <= 6 for value in values)  # 0.35 and 12.73, not 0.35000000000000003


def test_rounding_keeps_the_steps_of_a_range() -> None:
    hundredths = Dimension(low=1000, high=1002, step=0.01)
    made = OptunaStudy({"one": {"0.x": hundredths}}, {}, (QUALITY,), {"quality": 0.0}, 0)
    values = [one.values["0.x"] for one in made.ask(20)]
    assert all(hundredths.takes(value) for value in values)
    assert len(set(values)) > 10


def test_rounding_does_not_leave_a_narrow_range_nor_make_it_coarse() -> None:
    space = {"one": {"0.x": Dimension(low=1.000011, high=1.000012)}}
    values = [one.values["0.x"] for one in OptunaStudy(space, {}, (QUALITY,), {"quality": 0.0}, 0).ask(5)]
    assert all(1.000011 <= value <= 1.000012 for value in values)
    assert len(set(values)) == 5


def test_the_plans_own_values_are_tried_first_where_the_space_has_them() -> None:
    own = {
        "student": {"0.temperature": 4.0, "0.width": [8, 8]},
        "pruned": {"0.ratio": 0.9, "0.rounds": 3},
    }
    first, second = study(own=own).ask(2)
    assert (first.candidate, first.values) == ("student", own["student"])
    assert second.values != own["pruned"], "0.9 is outside of the space"


def test_a_study_goes_to_where_the_chains_are_good_and_within_limits() -> None:
    draws = searched(study(), 25)
    temperatures = [one.values.get("0.temperature") for one in draws]
    late = [value for value in temperatures[50:] if value is not None]
    assert len(late) > 40, "the chains that fail or are worse are tried less"
    assert sum(value < 5 for value in late) / len(late) > 0.6, "a third of the range, by its logarithm, is below 5.6"


def test_a_draw_is_told_once() -> None:
    made = study()
    (draw,) = made.ask(1)
    made.tell(draw.number, {"quality": 1.0, "size": 1.0}, {})
    with pytest.raises(KeyError):
        made.tell(draw.number, {"quality": 1.0, "size": 1.0}, {})
