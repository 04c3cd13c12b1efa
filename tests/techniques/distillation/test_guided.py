"""What the techniques that compare layers have in common: features, attention and relations."""

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord, Surgery
from tasks.models.architecture import Network, surgery
from tasks.techniques.distillation.distill_attention import DistillAttention
from tasks.techniques.distillation.distill_features import DistillFeatures
from tasks.techniques.distillation.distill_relations import DistillRelations
from tasks.techniques.distillation.guided import GuidedSpec
from tasks.techniques.distillation.guided_training import GuidedTraining, Weights
from tasks.techniques.distillation.guides import RelationGuide, angle_relation, attention_distance, distance_relation
from tasks.techniques.distillation.layer_pairs import LayerPair
from tasks.techniques.distillation.losses import softened_divergence
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1]})
LEARNING = Schedule(epochs=16, batch_size=8, learning_rate=1e-2)
SHORT = Schedule(epochs=2, batch_size=16)
TINY_STEP = Schedule(epochs=1, batch_size=42, optimizer="sgd", learning_rate=1e-9)

each_technique = pytest.mark.parametrize("technique", [DistillFeatures, DistillAttention, DistillRelations])


def gentle(technique: type[GuidedSpec]) -> dict[str, float]:
    """Return weights with which the labels are learned within the few steps of a test."""
    return {
        "DistillFeatures": {"feature_weight": 0.1},
        "DistillAttention": {"attention_weight": 0.3},
        "DistillRelations": {"distance_weight": 0.5, "angle_weight": 1.0},
    }[technique.__name__]


class Mask(nn.Module):
    """Keeps every other row of a weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        keep = torch.ones_like(weight)
        keep[::2] = 0
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


@surgery
def mask_layer(module: nn.Module, path: str) -> nn.Module:
    layer = module.get_submodule(path)
    parametrize.register_parametrization(layer, "weight", Mask(layer.weight))
    return module


def convolutions(num_outputs: int, width: int) -> nn.Module:
    """Return a network without batch norm, whose rows do not mix."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_outputs),
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this file's factory and surgery importable by name, as a user's package is."""
    package = types.ModuleType("users_networks")
    package.convolutions, package.mask_layer = convolutions, mask_layer
    monkeypatch.setitem(sys.modules, "users_networks", package)


def users_network(width: int, seed: int) -> Network:
    kwargs = {"num_outputs": 3, "width": width}
    return Network.create(Architecture(factory="users_networks:convolutions", kwargs=kwargs), seed)


@each_technique
def test_apply_trains_the_student_and_gives_it_out_alone(
    technique: type[GuidedSpec], teacher: bytes, make_context: MakeContext
) -> None:
    records: list[EpochRecord] = []
    spec = technique.model_validate({"student": STUDENT, "schedule": LEARNING, **gentle(technique)})
    applied = spec.apply(b"", make_context(load_baseline=lambda: teacher, report=records.append))
    student = Network.from_bytes(applied.model)
    built = Network.create(student.architecture, seed=0)
    assert student.module.state_dict().keys() == built.module.state_dict().keys()
    assert len(records) == spec.planned_epochs
    assert records[-1].metrics["train_accuracy"] > 0.9
    assert records[-1].metrics["loss"] < records[0].metrics["loss"]
    assert applied.details["teacher_accuracy"] == 1.0
    assert spec.starts_over
    expected = "head -> head (input)" if technique is DistillRelations else "stages -> stages"
    assert applied.details["pairs"] == expected


@each_technique
def test_apply_keeps_the_masks_of_an_incoming_model(
    technique: type[GuidedSpec], teacher: bytes, make_context: MakeContext
) -> None:
    network = Network.from_bytes(teacher)
    operation = Surgery(function="users_networks:mask_layer", arguments={"path": "stages.0.0.conv1"})
    masked = network.with_surgery(operation, mask_layer(network.module, "stages.0.0.conv1"))
    spec = technique(schedule=SHORT)
    trained = Network.from_bytes(spec.apply(masked.to_bytes(), make_context(load_baseline=lambda: teacher)).model)
    before, after = (one.module.get_submodule("stages.0.0.conv1") for one in (masked, trained))
    assert torch.equal(after.weight[::2], torch.zeros_like(after.weight[::2]))
    assert not torch.equal(after.weight[1::2], before.weight[1::2])
    assert trained.architecture == masked.architecture
    assert not spec.starts_over


def first_loss(spec: GuidedSpec, student: Network, baseline: Network, make_context: MakeContext) -> float:
    """Return the loss of all rows before anything was learned."""
    records: list[EpochRecord] = []
    spec.apply(student.to_bytes(), make_context(load_baseline=baseline.to_bytes, report=records.append))
    return records[0].metrics["loss"]


def reference_terms(student: Network, baseline: Network, rows: Arrays) -> dict[str, Tensor]:
    """Compute the terms from features that are taken out by running a part of the networks."""
    x, labels = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    with torch.no_grad():
        s, t = student.module(x), baseline.module.eval()(x)
        s_map, t_map = student.module[:2](x), baseline.module[:2](x)
        s_flat, t_flat = student.module[:4](x), baseline.module[:4](x)
        return {
            "label": functional.cross_entropy(s, labels),
            "response": softened_divergence(s, t, 4.0),
            "attention": attention_distance(s_map, t_map),
            "distance": distance_relation(s_flat, t_flat),
            "angle": angle_relation(s_flat, t_flat),
        }


@pytest.fixture(scope="module")
def wise() -> Callable[[Arrays], Network]:
    """Return a function that makes a teacher of this file's architecture that knows the stripes."""

    def teach(rows: Arrays) -> Network:
        network = users_network(8, seed=1)
        optimizer = torch.optim.Adam(network.module.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            functional.cross_entropy(network.module(torch.from_numpy(rows.x)), torch.from_numpy(rows.y)).backward()
            optimizer.step()
        return network

    return teach


def test_apply_charges_the_sum_of_its_terms(
    wise: Callable[[Arrays], Network], images: Arrays, make_context: MakeContext
) -> None:
    student, baseline = users_network(4, seed=2), wise(images)
    rows = make_context().load_split("train")
    terms = {name: float(value) for name, value in reference_terms(student, baseline, rows).items()}
    weights: dict[str, Any] = {"label_weight": 0.3, "response_weight": 0.6, "schedule": TINY_STEP}
    shared = 0.3 * terms["label"] + 0.6 * terms["response"]
    attention = DistillAttention(attention_weight=7.0, **weights)
    assert first_loss(attention, student, baseline, make_context) == pytest.approx(
        shared + 7 * terms["attention"], rel=1e-4
    )
    relations = DistillRelations(distance_weight=2.0, angle_weight=3.0, **weights)
    assert first_loss(relations, student, baseline, make_context) == pytest.approx(
        shared + 2 * terms["distance"] + 3 * terms["angle"], rel=1e-4
    )


def test_apply_compares_the_features_of_each_part_when_memory_is_limited(
    wise: Callable[[Arrays], Network], images: Arrays, make_context: MakeContext
) -> None:
    student, baseline = users_network(4, seed=2), wise(images)
    spec = DistillAttention(schedule=Schedule(epochs=2, batch_size=16, optimizer="sgd", learning_rate=0.05))
    trained = [
        Network.from_bytes(
            spec.apply(student.to_bytes(), make_context(load_baseline=baseline.to_bytes, micro_batch_limit=limit)).model
        ).module.state_dict()
        for limit in (None, 5)
    ]
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(trained[0]["0.weight"], student.module.state_dict()["0.weight"])


def test_hint_phase_explains_the_teachers_features_and_leaves_the_rest_alone(
    teacher: bytes, make_context: MakeContext
) -> None:
    records: list[EpochRecord] = []
    spec = DistillFeatures(student=STUDENT, hint_epochs=8, schedule=LEARNING)
    applied = spec.apply(b"", make_context(load_baseline=lambda: teacher, report=records.append))
    assert spec.planned_epochs == 24
    assert [record.step for record in records] == list(range(1, 25))
    assert records[7].metrics["loss"] < 0.6 * records[0].metrics["loss"]  # a share of variance
    assert records[7].metrics["loss"] < 0.9
    assert records[-1].metrics["train_accuracy"] > 0.9
    assert Network.from_bytes(applied.model).architecture.factory == STUDENT.factory


def test_hint_phase_does_not_move_what_lies_behind_the_hint(teacher: bytes, make_context: MakeContext) -> None:
    student = Network.from_bytes(teacher).module.state_dict()
    spec = DistillFeatures(hint_epochs=2, schedule=SHORT)
    frozen = Network.from_bytes(teacher).module
    pairs = (LayerPair(teacher="stem", student="stem"),)
    training = GuidedTraining(frozen, pairs, spec._make_guide, temperature=4.0, device="cpu")
    trained = training.run(*spec._trainings()[0], teacher, make_context(), 1)
    after = Network.from_bytes(trained).module.state_dict()
    assert not torch.equal(after["stem.conv.weight"], student["stem.conv.weight"])
    for name in ("stages.0.0.conv1.weight", "head.weight", "head.bias"):
        assert torch.equal(after[name], student[name])


@each_technique
def test_apply_names_the_layers_that_there_are_when_a_pair_is_wrong(
    technique: type[GuidedSpec], teacher: bytes, make_context: MakeContext
) -> None:
    spec = technique.model_validate({"student": STUDENT, "pairs": [{"teacher": "stem", "student": "stage.0"}]})
    with pytest.raises(TechniqueError, match=r"the student has no layer 'stage\.0' .*stages\.0 \[4, 8, 8\]"):
        spec.apply(b"", make_context(load_baseline=lambda: teacher))


@each_technique
def test_apply_takes_the_pairs_of_the_plan(
    technique: type[GuidedSpec], teacher: bytes, make_context: MakeContext
) -> None:
    pairs = [{"teacher": "stem", "student": "stem.norm"}, {"teacher": "stages.0", "student": "stem"}]
    spec = technique.model_validate({"student": STUDENT, "pairs": pairs, "schedule": SHORT.model_dump()})
    applied = spec.apply(b"", make_context(load_baseline=lambda: teacher))
    assert applied.details["pairs"] == "stem -> stem.norm, stages.0 -> stem"


def test_attention_refuses_networks_without_maps_in_common(teacher: bytes, make_context: MakeContext) -> None:
    flat = Architecture(factory="tasks.models.mlp:mlp", kwargs={"hidden": [4]})
    with pytest.raises(TechniqueError, match=r"no maps \[C, H, W\] of one resolution .*stages.*those of the student 0"):
        DistillAttention(student=flat).apply(b"", make_context(load_baseline=lambda: teacher))


@pytest.mark.parametrize("technique", [DistillFeatures, DistillRelations])
def test_apply_learns_regression_on_a_table(technique: type[GuidedSpec], make_context: MakeContext) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 5)).astype(np.float32)
    split = Arrays(x, x.sum(axis=1))
    members: dict[str, Any] = {
        "task": "regression", "input_shape": (5,), "num_outputs": 1, "load_split": lambda name: split,
    }  # fmt: skip
    recipe = {"input_shape": [5], "num_outputs": 1, "hidden": [16]}
    baseline = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=recipe), seed=0)
    fit(baseline.module, split, label_loss("regression"), Schedule(epochs=40, batch_size=16), make_context(**members))
    student = Architecture(factory="tasks.models.mlp:mlp", kwargs={"hidden": [8]})
    records: list[EpochRecord] = []
    schedule = Schedule(epochs=30, batch_size=16, learning_rate=2e-2)
    spec = technique.model_validate({"student": student, "schedule": schedule, **gentle(technique)})
    applied = spec.apply(b"", make_context(load_baseline=baseline.to_bytes, report=records.append, **members))
    assert applied.details["pairs"] == "4 -> 4 (input)"
    assert records[-1].metrics["train_rmse"] < 0.5 * records[0].metrics["train_rmse"]


@pytest.mark.parametrize(
    ("technique", "fields"),
    [
        (DistillFeatures, {"hint_epochs": 1, "label_weight": 0, "response_weight": 0}),
        (DistillFeatures, {"feature_weight": 0}),
        (DistillAttention, {"attention_weight": 0}),
        (DistillRelations, {"distance_weight": 0, "angle_weight": 0}),
    ],
)
def test_specs_reject_weights_that_leave_nothing_to_learn(
    technique: type[GuidedSpec], fields: dict[str, float]
) -> None:
    with pytest.raises(ValidationError):
        technique.model_validate(fields)


def test_guided_training_leaves_no_hooks_behind(teacher: bytes, make_context: MakeContext) -> None:
    frozen = Network.from_bytes(teacher).module
    pair = DistillRelations.model_validate({"pairs": [{"teacher": "pool", "student": "pool"}]}).pairs
    training = GuidedTraining(frozen, pair, lambda *_: RelationGuide(1.0, 1.0), temperature=4.0, device="cpu")
    training.run(SHORT, Weights(1.0, 0.0, 1.0), teacher, make_context(), first_step=1)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in frozen.modules())
