import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.decisions.pareto import STANDARD_OBJECTIVES, Objective, choose, dominates, pareto_front

ACCURACY, SIZE, LATENCY = STANDARD_OBJECTIVES


def figures(accuracy: float, size: float, latency: float) -> dict[str, float]:
    return {"accuracy": accuracy, "size_bytes": size, "latency_p50_ms": latency}


points = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.builds(figures, *(st.integers(0, 4).map(float) for _ in range(3))),
    max_size=12,
)


def test_pareto_front_equals_the_one_found_by_hand():
    candidates = {
        "accurate": figures(0.99, 90, 3.0),
        "small": figures(0.97, 10, 2.0),
        "dominated": figures(0.97, 11, 2.0),
        "fast": figures(0.96, 20, 1.0),
        "useless": figures(0.90, 95, 9.0),
    }
    assert pareto_front(candidates, STANDARD_OBJECTIVES) == ("accurate", "small", "fast")


def test_pareto_front_keeps_ties():
    twins = {"a": figures(0.9, 10, 1.0), "b": figures(0.9, 10, 1.0)}
    assert pareto_front(twins, STANDARD_OBJECTIVES) == ("a", "b")


@pytest.mark.parametrize("bad", [{"accuracy": 0.9, "size_bytes": 1.0}, figures(0.9, math.nan, 1.0)])
def test_pareto_front_names_the_figure_that_is_missing(bad):
    with pytest.raises(ValueError, match="candidate 'b' has no figure"):
        pareto_front({"a": figures(0.9, 1, 1), "b": bad}, STANDARD_OBJECTIVES)


@given(points)
def test_pareto_front_is_never_empty_and_nothing_on_it_is_dominated(candidates):
    front = pareto_front(candidates, STANDARD_OBJECTIVES)
    assert bool(front) == bool(candidates)
    for name in front:
        assert not any(dominates(other, candidates[name], STANDARD_OBJECTIVES) for other in candidates.values())


@given(points)
def test_pareto_front_dominates_all_that_it_leaves_out(candidates):
    front = pareto_front(candidates, STANDARD_OBJECTIVES)
    for name in set(candidates) - set(front):
        assert any(dominates(candidates[best], candidates[name], STANDARD_OBJECTIVES) for best in front)


@given(points, st.permutations(STANDARD_OBJECTIVES))
def test_choose_takes_from_the_front(candidates, preference):
    chosen = choose(candidates, preference)
    assert chosen in pareto_front(candidates, preference) or not candidates


def test_choose_follows_the_preference_and_breaks_ties_by_the_next_objective():
    candidates = {"b": figures(0.97, 10, 2.0), "a": figures(0.98, 10, 2.0), "fast": figures(0.96, 20, 1.0)}
    assert choose(candidates, (SIZE, ACCURACY)) == "a"
    assert choose(candidates, (LATENCY,)) == "fast"
    assert choose(dict.fromkeys(("y", "x"), candidates["b"]), (SIZE,)) == "x"
    assert choose({}, (SIZE,)) is None


def test_choose_obeys_directions():
    assert choose({"a": {"score": 1.0}, "b": {"score": 2.0}}, (Objective("score", "higher"),)) == "b"
