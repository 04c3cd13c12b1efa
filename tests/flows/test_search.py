"""From a plan with a search to the plan that is found. The search itself runs in tests/e2e/test_search.py."""

from typing import Any

import pytest
import yaml

from flows.plan import CompressionPlan, parse_plan
from flows.search import found_plan, found_text, own_values, search_plan
from tasks.contracts.errors import PlanError
from tasks.contracts.run import PlanIdentity
from tasks.contracts.search import Excess, HalfScores, SearchRecord, Trial, TrialFigures

DOCUMENT: dict[str, Any] = {
    "name": "small",
    "dataset": {"source": "digits"},
    "baseline": {"train": {"model": {"factory": "tasks.models.mlp:mlp"}}},
    "candidates": {
        "student": [
            {"kind": "distill_response", "student": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [8]}}},
            {"kind": "quantize_static"},
        ],
        "pruned": [{"kind": "prune_channels", "ratio": 0.5}],
    },
    "search": {
        "space": {
            "student": {
                "0.temperature": {"low": 3, "high": 20},
                "0.student.kwargs.hidden": {"choices": [[4], [8], [16]]},
            },
            "pruned": {"0.ratio": {"low": 0.1, "high": 0.7}},
        },
        "trials": 4,
    },
}


SOFTER = {"0.temperature": 6.0, "0.student.kwargs.hidden": [16]}


def plan(**changes: Any) -> CompressionPlan:
    return parse_plan(DOCUMENT | changes, "small")


def figures(size: int = 1000) -> TrialFigures:
    return TrialFigures(scores=HalfScores(tuned=0.97, held=0.96), size_bytes=size, flops=1)


def record(*finalists: int) -> SearchRecord:
    within = {"figures": figures(), "excess": Excess(tuned=-0.01, held=-0.01, size=0)}
    return SearchRecord(
        run_id="r", started_at="", finished_at="", plan=PlanIdentity(name="small", digest="0" * 64), dataset="digits",
        revision="1", metric="accuracy", baseline=figures(8000),
        trials=(
            Trial(number=0, candidate="student", values=SOFTER, **within),
            Trial(number=1, candidate="pruned", values={"0.ratio": 0.3}, **within),
        ),
        finalists=finalists,
    )  # fmt: skip


def test_found_plan_is_the_plan_with_the_finalists_chains_and_without_the_search() -> None:
    found = found_plan(DOCUMENT, record(1, 0))
    assert found is not None
    assert list(found["candidates"]) == ["pruned-1", "student-0"]
    student = found["candidates"]["student-0"]
    assert student[0]["temperature"] == 6.0
    assert student[0]["student"]["kwargs"]["hidden"] == [16]
    assert student[1] == {"kind": "quantize_static"}
    assert found["candidates"]["pruned-1"] == [{"kind": "prune_channels", "ratio": 0.3}]
    assert "search" not in found
    assert {key: found[key] for key in ("name", "dataset", "baseline")} == {
        key: DOCUMENT[key] for key in ("name", "dataset", "baseline")
    }
    assert DOCUMENT["candidates"]["student"][0]["student"]["kwargs"]["hidden"] == [8], "what was given stays as it was"


def test_found_plan_of_a_dumped_plan_is_the_same_plan_as_that_of_what_was_written() -> None:
    written, dumped = (found_plan(one, record(0)) for one in (DOCUMENT, plan().model_dump(mode="json")))
    assert written is not None
    assert dumped is not None
    assert parse_plan(written, "written").value_digest() == parse_plan(dumped, "dumped").value_digest()


def test_what_a_search_shows_is_what_was_written_and_not_every_default() -> None:
    shown = found_plan(plan().model_dump(mode="json", exclude_unset=True), record(0))
    assert shown == found_plan(DOCUMENT, record(0))


def test_found_text_is_yaml_with_the_figures_as_comments() -> None:
    text = found_text(DOCUMENT, record(0))
    assert text is not None
    assert yaml.safe_load(text) == found_plan(DOCUMENT, record(0))
    comment = next(line.strip() for line in text.splitlines() if "trial 0" in line)
    assert comment == (
        "# trial 0: accuracy 0.9600 held out (0.9700 on the half looked at; baseline 0.9600 and 0.9700), "
        "8.0 times smaller"
    )


def test_nothing_is_found_where_no_chain_keeps_the_limits() -> None:
    assert found_plan(DOCUMENT, record()) is None
    assert found_text(DOCUMENT, record()) is None


def test_own_values_are_those_of_the_plan_with_its_defaults() -> None:
    found = own_values(plan(), plan().search.space)  # type: ignore[union-attr]
    assert found == {
        "student": {"0.temperature": 4.0, "0.student.kwargs.hidden": [8]},
        "pruned": {"0.ratio": 0.5},
    }


def test_own_values_leave_out_a_chain_that_lacks_a_place() -> None:
    space = {
        "student": {"0.student.kwargs.dropout": {"choices": [0.0, 0.1]}},
        "pruned": {"0.ratio": {"choices": [0.1, 0.2]}},
    }
    varied = plan(search={"space": space})
    assert varied.search is not None
    assert list(own_values(varied, varied.search.space)) == ["pruned"]


def test_a_search_without_a_space_says_how_to_give_one() -> None:
    with pytest.raises(PlanError, match=r"plan small has no `search`; say what may vary, for example search:"):
        search_plan.fn(plan(search=None))
