"""What becomes of a chain when a stage fails."""

from dataclasses import replace
from typing import Any

import pytest

from flows.candidates import PendingCandidate, PendingStage
from tasks.contracts.errors import BudgetError, InfrastructureError, StageFailedError, TechniqueError, WorkerLostError


class Future:
    """A finished future."""

    class state:  # noqa: N801 - an attribute of the real one
        name = "Completed"

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


def chain(*outcomes: Any) -> PendingCandidate:
    return PendingCandidate("small", tuple(PendingStage(Future(one), Future(one), Future(one)) for one in outcomes))


def test_finish_gives_every_stage_when_all_went_well() -> None:
    finished = chain("a", "b").finish()

    assert finished.failure is None
    assert [(one.made, one.cached) for one in finished.stages] == [("a", False), ("b", False)]


def test_finish_ends_as_a_failed_candidate_when_a_technique_cannot_be_applied() -> None:
    finished = chain("a", TechniqueError("it diverged"), "c").finish()

    assert finished.failure == "TechniqueError: it diverged"
    assert [one.made for one in finished.stages] == ["a"]


ERRORS = [WorkerLostError("x"), InfrastructureError("x"), StageFailedError("x"), KeyError("x")]


@pytest.mark.parametrize("error", ERRORS)
def test_finish_raises_what_is_no_verdict_on_the_candidate(error: Exception) -> None:
    with pytest.raises(type(error)):
        chain("a", error).finish()


def test_finish_shows_the_stage_that_broke_the_early_stop_and_none_after_it() -> None:
    good, broken, never = (PendingStage(Future(name), Future(name), Future(name)) for name in "abc")
    stages = (
        replace(good, screened=Future(None)),
        replace(broken, screened=Future(BudgetError("it lost ten points"))),
        never,
    )
    finished = PendingCandidate("small", stages).finish()

    assert finished.failure == "BudgetError: it lost ten points"
    assert [one.made for one in finished.stages] == ["a", "b"]
