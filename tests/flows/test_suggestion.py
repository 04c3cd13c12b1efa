import importlib
import inspect
import math
from typing import Any

import pytest
import yaml

from flows.plan import parse_plan
from flows.suggestion import _WIDTHS, Request, request_of, scaled, suggest, suggest_plan, written
from tasks.contracts.errors import PlanError
from tasks.contracts.model import Architecture
from tasks.decisions.gate_policy import Constraints
from tasks.techniques.baseline import TrainSpec
from tasks.techniques.schedule import Schedule

RESNET = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 32, "blocks": [1, 1]})
TRAIN = TrainSpec(model=RESNET, schedule=Schedule(epochs=20, learning_rate=0.004))
DOCUMENT: dict[str, Any] = {
    "name": "toy",
    "dataset": {"source": "digits"},
    "baseline": {"train": {"model": {"factory": RESNET.factory, "kwargs": {"width": 8, "blocks": [1, 1]}}}},
    "constraints": {"max_size_ratio": 0.2},
}


def quadratic(model: Architecture) -> int:
    """Parameters as they grow in a network of convolutions: with the square of the width."""
    return 700 * int(model.kwargs["width"]) ** 2


def asked(size_ratio: float | None, train: TrainSpec = TRAIN) -> Request:
    return Request(train, quadratic(RESNET), size_ratio, None)


def by_name(size_ratio: float | None) -> dict[str, Any]:
    return {one.name: one for one in suggest(asked(size_ratio), quadratic)}


def test_request_takes_the_tighter_of_both_limits_of_the_size() -> None:
    whole = 1000 * 4 + 4000
    tight = request_of(TRAIN, Constraints(max_size_ratio=0.5, max_size_bytes=whole // 4), 1000)
    assert tight.size_ratio == 0.25
    assert tight.max_bytes == whole / 4
    assert request_of(TRAIN, Constraints(), 1000).max_bytes == math.inf


def test_suggest_offers_int8_alone_when_a_quarter_of_the_size_is_enough() -> None:
    assert "int8" in by_name(0.27)
    assert "int8" not in by_name(0.2)


@pytest.mark.parametrize("size_ratio", [0.2, 0.1, 0.05])
def test_suggest_prunes_as_much_as_the_size_asks_for_and_no_round_takes_more_than_practice(size_ratio: float) -> None:
    pruning, quantizing = by_name(size_ratio)["pruned-int8"].chain
    kept = (1 - pruning["ratio"]) ** 2 * quadratic(RESNET)
    assert kept * 1.03 + 4000 <= size_ratio * (quadratic(RESNET) * 4 + 4000)
    assert pruning["ratio"] / pruning["rounds"] <= 0.15 + 1e-9
    assert pruning["fine_tune"]["learning_rate"] == 0.002
    assert quantizing == {"kind": "quantize_static"}


def test_suggest_takes_the_widest_student_that_fits_and_teaches_it_twice_as_long() -> None:
    distilling, _ = by_name(0.05)["student-int8"].chain
    assert distilling["student"]["kwargs"]["width"] == 12  # 16 would be 0.064 of the size
    assert distilling["schedule"]["epochs"] == 40


def test_suggest_adds_4_bits_only_when_8_are_far_too_many() -> None:
    assert "student-int4" not in by_name(0.05)
    _, last = by_name(0.02)["student-int4"].chain
    assert (last["kind"], last["weight_bits"]) == ("quantize_aware", 4)


def test_suggest_warns_of_a_student_below_a_tenth_of_the_teacher() -> None:
    assert "distill_features" in by_name(0.02)["student-int8"].why


def test_suggest_refuses_what_no_chain_reaches() -> None:
    with pytest.raises(PlanError, match=r"at most 2,\d+ bytes.*raise constraints"):
        suggest(asked(0.001), quadratic)


def test_suggest_prunes_and_quantizes_a_users_own_network_but_does_not_scale_it() -> None:
    own = TrainSpec(model=Architecture(factory="mine.nets:net", kwargs={"width": 32}))
    names = [one.name for one in suggest(asked(0.27, own), quadratic)]
    assert names == ["int8", "pruned-int8"]


def test_scaled_keeps_multiples_of_4_and_lists() -> None:
    convnet = Architecture(factory="tasks.models.convnet:convnet", kwargs={"widths": [16, 32, 64]})
    narrow = scaled(convnet, 0.375)
    assert narrow is not None
    assert narrow.kwargs["widths"] == [8, 12, 24]
    assert scaled(Architecture(factory="mine.nets:net", kwargs={"width": 8}), 0.5) is None


def test_written_is_a_valid_plan_that_says_why() -> None:
    text = written(DOCUMENT, suggest(asked(0.2), quadratic))
    plan = parse_plan(yaml.safe_load(text), "toy")
    assert list(plan.candidates) == ["pruned-int8", "student-int8"]
    assert "# a student with" in text
    assert "Not suggested: prune_weights" in text


def test_suggest_plan_leaves_out_a_search_of_the_candidates_that_it_replaces() -> None:
    search = {"space": {"gone": {"0.temperature": {"low": 3, "high": 20}}}}
    assert "search" not in yaml.safe_load(suggest_plan(DOCUMENT | {"search": search}, "toy.yaml"))


def test_suggest_plan_needs_the_baselines_architecture() -> None:
    with pytest.raises(PlanError, match=r"needs baseline\.train"):
        suggest_plan(DOCUMENT | {"baseline": {"load": "model.zip"}}, "toy.yaml")


@pytest.mark.parametrize("factory", _WIDTHS)
def test_width_of_every_factory_and_its_default_are_those_of_its_signature(factory: str) -> None:
    module, _, name = factory.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    argument, default = _WIDTHS[factory]
    own = parameters[argument].default
    assert (list(own) if isinstance(own, tuple) else own) == default


def test_scaled_keeps_transformers_divisible_by_their_heads() -> None:
    vit = Architecture(factory="tasks.models.vit:vit", kwargs={"width": 64, "heads": 8})
    narrow = scaled(vit, 0.1875)
    assert narrow is not None
    assert narrow.kwargs["width"] == 16


@pytest.mark.parametrize(("latency_ratio", "allowed"), [(None, True), (0.5, None)])
def test_suggest_lets_a_narrow_int8_student_be_slower_only_where_size_alone_counts(
    latency_ratio: float | None, allowed: bool | None
) -> None:
    request = Request(TRAIN, quadratic(RESNET), 0.05, latency_ratio)
    student = next(one for one in suggest(request, quadratic) if one.name == "student-int8")
    assert student.chain[-1].get("allow_slower") is allowed
    assert "slower than float32" in student.why
