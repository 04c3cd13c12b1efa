from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.plan import load_plan, parse_plan, plan_schema
from tasks.contracts.errors import PlanError

PLANS = sorted((Path(__file__).parents[2] / "plans").glob("*.yaml"))


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "small",
        "dataset": {"source": "digits"},
        "baseline": {"train": {"model": {"factory": "tasks.models.mlp:mlp"}}},
        "candidates": {"one": [{"kind": "distill_response"}]},
    }
    return base | changes


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_load_plan_accepts_every_shipped_plan(path: Path) -> None:
    assert load_plan(path).candidates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "sed: unknown key; did you mean 'seed'"),
        (
            {"constraints": {"max_acuracy_drop": 0.1}},
            "constraints.max_acuracy_drop: unknown key; did you mean 'max_acc",
        ),
        ({"candidates": {"one": [{"kind": "distill_response", "temprature": 4}]}}, "did you mean 'temperature'"),
        ({"candidates": {"one": [{"kind": "distil"}]}}, "distill_response"),
        ({"candidates": {"one": []}}, "candidates.one"),
        (
            {"baseline": {"load": "teacher.zip"}, "gate": {"data_splits": 5}},
            "gate.data_splits wants the baseline trained anew on each split, but this plan loads it",
        ),
        (
            {
                "baseline": {"train": {"model": {"factory": "tasks.models.mlp:mlp"}, "warm_start": {}}},
                "gate": {"data_splits": 5},
            },
            "gate.data_splits wants the baseline trained anew on each split, but this plan loads it or its weights",
        ),
        ({"candidates": {}}, "candidates"),
        ({"dataset": {"source": "digits", "split": {"train": 0.9}}}, "sum to"),
        ({"baseline": {"train": {"model": {"factory": "no colon"}}}}, "baseline.train.model.factory"),
        ({"baseline": {"train": {"model": {"factory": "a:b"}, "epochs": 3}}}, "baseline.train.epochs: unknown key"),
        ({"rollout": {"steps": [50, 5]}}, "must rise"),
        ({"gate": {"alpha": 2}}, "gate.alpha"),
        ({"name": "Not A Slug"}, "name"),
        (
            {"search": {"space": {"two": {"0.temperature": {"low": 3, "high": 20}}}}},
            "search.space names no candidate 'two'; those of the plan are one",
        ),
        (
            {"search": {"space": {"one": {"0.temprature": {"low": 3, "high": 20}}}}},
            "candidates.one.0.temprature: unknown key; did you mean 'temperature'",
        ),
        (
            {"search": {"space": {"one": {"0.label_weight": {"low": 0, "high": 3}}}}},
            "search.space.one.0.label_weight takes 3:",
        ),
        (
            {"search": {"space": {"one": {"1.ratio": {"low": 0.1, "high": 0.3}}}}},
            "'1' is not a position of a list of 1",
        ),
        (
            {"search": {"space": {"one": {"0.temperature": {"low": 3, "hihg": 20}}}}},
            "search.space.one.0.temperature.hihg: unknown key; did you mean 'high'",
        ),
    ],
)
def test_parse_plan_names_the_place_and_the_remedy_when_a_value_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as raised:
        parse_plan(document(**changes), "test")
    assert message in str(raised.value)


def test_parse_plan_refuses_several_workers_for_a_technique_that_cannot_share_its_work() -> None:
    chain = [{"kind": "prune_channels", "resources": {"num_workers": 2}}]
    with pytest.raises(PlanError, match="candidate 'alone': prune_channels as it is set here runs in one process"):
        parse_plan(document(candidates={"alone": chain}), "test")


def test_parse_plan_refuses_a_chain_that_goes_back_to_torch() -> None:
    chain = [{"kind": "quantize_static"}, {"kind": "prune_channels"}]
    with pytest.raises(PlanError) as raised:
        parse_plan(document(candidates={"back": chain}), "test")
    assert (
        "prune_channels needs a torch model, but quantize_static before it gives onnx; "
        "move prune_channels before quantize_static" in str(raised.value)
    )


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            ["quantize_static", "quantize_dynamic"],
            "quantize_dynamic takes a float model, but quantize_static before it",
        ),
        (["quantize_aware", "quantize_float16"], "quantize_float16 takes a float model, but quantize_aware before it"),
        (["share_int8_weights"], "share_int8_weights needs a model with int8 weights; put quantize_static before it"),
        (["quantize_int4", "share_int8_weights"], "share_int8_weights needs a model with int8 weights"),
    ],
)
def test_parse_plan_refuses_a_chain_whose_weights_do_not_fit(kinds: list[str], message: str) -> None:
    with pytest.raises(PlanError) as raised:
        parse_plan(document(candidates={"twice": [{"kind": kind} for kind in kinds]}), "test")
    assert message in str(raised.value)


@pytest.mark.parametrize("kinds", [["quantize_static", "share_int8_weights"], ["quantize_float16", "quantize_static"]])
def test_parse_plan_takes_a_chain_whose_weights_fit(kinds: list[str]) -> None:
    chain = parse_plan(document(candidates={"chain": [{"kind": kind} for kind in kinds]}), "test").candidates["chain"]
    assert [technique.kind for technique in chain] == kinds


def test_parse_plan_wants_to_know_what_counts_as_right_when_a_regression_replays_traffic() -> None:
    table = {"source": "csv", "name": "t", "path": "t.csv", "task": "regression", "target": "y"}
    with pytest.raises(PlanError, match=r"set it, in the target's unit"):
        parse_plan(document(dataset=table, rollout={"replay": {}}), "test")
    parse_plan(document(dataset=table, rollout={"replay": {}, "correct_within": 0.5}), "test")
    parse_plan(document(dataset=table), "test")


def test_parse_plan_replays_no_rows_without_labels() -> None:
    with pytest.raises(PlanError, match=r"rollout\.replay\.split"):
        parse_plan(document(rollout={"replay": {"split": "unlabelled"}}), "test")


def test_load_plan_applies_overrides_to_nested_values_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(document()))
    plan = load_plan(path, ("seed=7", "candidates.one.0.temperature=9", "constraints.max_size_ratio=0.1"))
    assert plan.seed == 7
    assert plan.candidates["one"][0].model_dump()["temperature"] == 9
    assert plan.constraints.max_size_ratio == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "key.path=value"),
        ("candidates.one.5.temperature=1", "not a position"),
        ("name.first=x", "nothing below"),
        ("candidates.one.0.temprature=1", "did you mean 'temperature'"),
    ],
)
def test_load_plan_explains_an_override_that_fits_nowhere(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(document()))
    with pytest.raises(PlanError, match=message):
        load_plan(path, (override,))


@pytest.mark.parametrize("content", ["name: [", "- a list", "", "\x00"])
def test_load_plan_explains_a_file_that_is_no_plan(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(content)
    with pytest.raises(PlanError, match=r"plan\.yaml"):
        load_plan(path)


def test_load_plan_explains_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="plans/ for plans to copy"):
        load_plan(tmp_path / "nowhere.yaml")


def test_plan_schema_describes_every_technique() -> None:
    text = str(plan_schema())
    assert all(kind in text for kind in ("distill_response", "prune_channels", "quantize_static"))


def test_value_digest_of_a_plan_ignores_how_it_was_written() -> None:
    explicit = document(seed=0, target="cpu")
    assert parse_plan(explicit, "a").value_digest() == parse_plan(document(), "b").value_digest()


def test_varied_gives_the_chain_with_other_values_and_leaves_the_plan_alone() -> None:
    plan = parse_plan(document(), "here")
    (varied,) = plan.varied("one", {"0.temperature": 9, "0.schedule.epochs": 3})
    assert (varied.temperature, varied.schedule.epochs) == (9, 3)  # type: ignore[union-attr]
    assert plan.candidates["one"][0].temperature == 4  # type: ignore[union-attr]
