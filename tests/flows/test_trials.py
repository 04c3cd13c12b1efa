"""What becomes of a chain that was drawn."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows import trials
from flows.candidates import Candidate
from flows.plan import CompressionPlan, parse_plan
from flows.trials import PendingTrial, start_trials
from tasks.adapters.optuna_study import Draw
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.search import HalfScores, TrialFigures

BASELINE = TrialFigures(scores=HalfScores(tuned=0.9, held=0.9), size_bytes=1000, flops=10)
PLAN: CompressionPlan = parse_plan(
    {
        "name": "small",
        "dataset": {"source": "digits"},
        "baseline": {"train": {"model": {"factory": "tasks.models.mlp:mlp"}}},
        "candidates": {"pruned": [{"kind": "prune_channels", "ratio": 0.5}]},
    },
    "small",
)
DRAW = Draw(7, "pruned", {"0.ratio": 0.3})


class Scores:
    """A finished future."""

    def result(self) -> HalfScores:
        return HalfScores(tuned=0.85, held=0.92)


class Chain:
    """A chain that came to an end, or did not."""

    def __init__(self, failure: str | None = None, error: Exception | None = None) -> None:
        self.failure, self.error = failure, error

    def finish(self) -> Any:
        if self.error is not None:
            raise self.error
        stage = type("Stage", (), {"made": type("Made", (), {"seconds": 2.5})})
        quality = type("Quality", (), {"size_bytes": 400, "flops": 4})
        return type("Made", (Candidate,), {"quality": quality})("pruned-7", (stage, stage), self.failure)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr(trials, "get_run_logger", lambda: logging.getLogger("trial"))


def finished(chain: Chain) -> Any:
    return PendingTrial(DRAW, chain, Scores()).finish("accuracy", BASELINE, PLAN)  # type: ignore[arg-type]


def test_a_chain_that_got_to_its_end_has_its_figures_and_what_it_is_beyond() -> None:
    trial = finished(Chain())
    assert (trial.number, trial.candidate, trial.values) == (7, "pruned", {"0.ratio": 0.3})
    assert (trial.figures.size_bytes, trial.figures.scores.held) == (400, 0.92)
    assert (trial.excess.tuned, trial.excess.held) == pytest.approx((0.04, -0.03)), "0.01 is tolerated"
    assert trial.seconds == 5.0
    assert not trial.is_within_limits


def test_a_chain_that_could_not_go_on_is_a_trial_that_failed() -> None:
    trial = finished(Chain(failure="TechniqueError: it diverged"))
    assert (trial.failure, trial.figures, trial.excess) == ("TechniqueError: it diverged", None, None)


def test_a_chain_that_the_infrastructure_stopped_is_no_trial() -> None:
    with pytest.raises(InfrastructureError):
        finished(Chain(error=InfrastructureError("the store is away")))


def test_values_that_make_no_valid_chain_are_a_trial_that_failed_without_a_stage() -> None:
    (pending,) = start_trials(PLAN, [Draw(3, "pruned", {"0.ratio": 7.0})], None, None)  # type: ignore[arg-type]
    trial = pending.finish("accuracy", BASELINE, PLAN)
    assert (trial.number, trial.figures, trial.seconds) == (3, None, 0.0)
    assert "candidates.pruned.0.ratio: Input should be less than 1" in trial.failure


def test_the_forms_of_a_round_are_settled_before_any_of_its_stages_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []

    def settle(chain: Any, *_: Any) -> Any:
        happened.append("settled")
        return chain

    def start(name: str, *_: Any) -> Any:
        happened.append(name)
        return SimpleNamespace(stages=[SimpleNamespace(quality=None)])

    monkeypatch.setattr(trials, "settle_chain", settle)
    monkeypatch.setattr(trials, "start_candidate", start)
    monkeypatch.setattr(trials, "score", SimpleNamespace(submit=lambda *_: Scores()))
    baseline = SimpleNamespace(made=SimpleNamespace(model=None))
    start_trials(PLAN, [Draw(n, "pruned", {"0.ratio": 0.3}) for n in range(2)], baseline, None)  # type: ignore[arg-type]
    assert happened == ["settled", "settled", "pruned-0", "pruned-1"]
