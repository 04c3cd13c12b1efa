"""The flow's own decisions, and its order with everything outside replaced; the whole runs in tests/e2e."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import retraining
from flows.plan import CompressionPlan, load_plan, parse_plan
from flows.retraining import outcome_of, retraining_plan
from tasks.contracts.errors import PlanError, RetrainingRefusedError
from tasks.contracts.publication import PublishedData
from tasks.runtime.services import connect
from tasks.stages.retraining import read_record
from tasks.techniques.baseline import TrainBaseline, WarmStart
from tasks.techniques.schedule import Schedule

PLAN = Path(__file__).parents[2] / "plans" / "digits.yaml"
PUBLISHED = PublishedData(
    model_name="digits", origin="0" * 64, revision="r1", base_revision="b", data_revision="d.dir", num_rows=9,
    num_new={"train": 1}, left_out={}, published_at="now",
    source={
        "source": "npz",
        "name": "digits",
        "path": "data/published/digits/rows.npz",
        "assigned": "data/published/digits/splits.npz",
    },
)  # fmt: skip


def warm_start(plan: CompressionPlan) -> WarmStart:
    assert isinstance(plan.baseline, TrainBaseline)
    assert plan.baseline.train.warm_start is not None
    return plan.baseline.train.warm_start


def test_retraining_plan_is_the_plan_on_the_new_data_with_a_shorter_and_gentler_warm_start() -> None:
    plan = load_plan(PLAN)

    again = retraining_plan(plan, PUBLISHED)

    assert again.dataset.location(Path("/p")) == Path("/p/data/published/digits/rows.npz")
    assert (again.candidates, again.constraints, again.gate) == (plan.candidates, plan.constraints, plan.gate)
    start = warm_start(again)
    assert (start.weights, start.schedule.epochs) == ("lineage", 20)
    assert start.schedule.learning_rate == pytest.approx(0.0009)
    assert start.schedule.augmentation.shift_pixels == 1


def test_retraining_plan_keeps_a_warm_start_of_the_plans_own() -> None:
    document = load_plan(PLAN).model_dump(mode="json")
    own = WarmStart(weights="teacher.zip", schedule=Schedule(epochs=3))
    document["baseline"]["train"]["warm_start"] = own.model_dump(mode="json")

    assert warm_start(retraining_plan(parse_plan(document, "test"), PUBLISHED)) == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"baseline": {"load": "t.zip"}}, "loads its baseline"), ({"gate": {"data_splits": 5}}, "gate.data_splits")],
)
def test_retraining_plan_refuses_what_cannot_be_trained_anew(changes: dict[str, Any], message: str) -> None:
    plan = parse_plan(load_plan(PLAN).model_dump(mode="json") | changes, "test")
    with pytest.raises(PlanError, match=message):
        retraining_plan(plan, PUBLISHED)


def dossier(chosen: str | None, verdict: str | None) -> Any:
    rollout = None if verdict is None else SimpleNamespace(verdict=verdict)
    candidate = SimpleNamespace(name="small", gate=SimpleNamespace(verdict="FAIL"))
    return SimpleNamespace(record=SimpleNamespace(chosen=chosen, candidates=(candidate,), rollout=rollout))


@pytest.mark.parametrize(
    ("chosen", "verdict", "outcome"),
    [
        ("small", "promote", "promoted"),
        ("small", "unchanged", "promoted"),
        ("small", "roll_back", "not promoted: roll_back"),
        (None, None, "not promoted: no candidate passed the gate (small FAIL)"),
    ],
)
def test_outcome_of_tells_how_it_ended(chosen: str | None, verdict: str | None, outcome: str) -> None:
    assert outcome_of(dossier(chosen, verdict)) == outcome


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace champion, publication and delivery; return what delivery was given."""
    from tasks.contracts.model import ModelRef

    delivered: list[Any] = []

    def deliver(plan: CompressionPlan, retraining: Any) -> Any:
        delivered.append((plan, retraining))
        return dossier("small", "promote")

    monkeypatch.setattr(
        retraining, "current_champion", lambda *_: ModelRef(digest="c" * 64, format="onnx", size_bytes=1)
    )
    monkeypatch.setattr(retraining, "publish", lambda *_: PUBLISHED)
    monkeypatch.setattr(retraining, "deliver_model", deliver)
    return delivered


def test_retrain_model_delivers_by_the_new_plan_against_the_champion_and_records_why(outside: list[Any]) -> None:
    retraining.retrain_model.fn("digits", str(PLAN), "new scanners")

    ((plan, context),) = outside
    assert warm_start(plan).weights == "lineage"
    assert (context.champion.digest, context.reason) == ("c" * 64, "new scanners")
    (entry,) = read_record(connect(), "digits").entries
    assert (entry.reason, entry.outcome, entry.data_revision) == ("new scanners", "promoted", "r1")


def test_retrain_model_refuses_a_second_one_within_the_pause(outside: list[Any]) -> None:
    retraining.retrain_model.fn("digits", str(PLAN), "new scanners")

    with pytest.raises(RetrainingRefusedError, match="cooldown_hours is 24"):
        retraining.retrain_model.fn("digits", str(PLAN), "again")
    assert len(outside) == 1


def test_retrain_model_refuses_the_plan_of_another_model(outside: list[Any]) -> None:
    with pytest.raises(PlanError, match=r"digits\.yaml registers 'digits', not 'cars'"):
        retraining.retrain_model.fn("cars", str(PLAN), "why not")
