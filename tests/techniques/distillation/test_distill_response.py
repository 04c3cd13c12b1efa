import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.techniques.distillation.distill_response import DistillResponse, softened_divergence
from tasks.techniques.inference import outputs_of
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import Schedule, fit, label_loss

MakeContext = Callable[..., StageContext]

STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1]})
SHORT = Schedule(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def logits(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits [6, 4] in float64."""
    student, teacher = 3 * torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return student, teacher


@pytest.fixture
def teacher(images: Arrays, make_context: MakeContext) -> bytes:
    recipe = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 6, "blocks": [1]}
    network = Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=recipe), seed=0)
    schedule = Schedule(epochs=10, batch_size=8)
    fit(network.module, images, label_loss("classification"), schedule, make_context())
    return network.to_bytes()


def test_softened_divergence_equals_the_value_worked_by_hand() -> None:
    # softmax(0, 2 ln 3 / 2) = (1/4, 3/4) and softmax(0, 0) = (1/2, 1/2) at T = 2
    student = torch.zeros(1, 2, dtype=torch.float64)
    teacher = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64)
    expected = 4 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    assert softened_divergence(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_softened_divergence_equals_its_formula_in_numpy(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    student, teacher = (softmax(z.numpy() / temperature) for z in logits)
    expected = temperature**2 * (teacher * np.log(teacher / student)).sum(axis=1).mean()
    assert softened_divergence(*logits, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_softened_divergence_has_the_gradient_of_its_differences(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    assert torch.autograd.gradcheck(lambda s: softened_divergence(s, teacher, 4.0), (student,))


def test_softened_divergence_has_the_gradient_of_its_docstring(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    softened_divergence(student, teacher, 4.0).backward()
    expected = 4 * (functional.softmax(student / 4, dim=1) - functional.softmax(teacher / 4, dim=1)) / 6
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-10, atol=1e-12)


def test_softened_divergence_matches_centred_logits_when_the_temperature_is_large(
    logits: tuple[Tensor, Tensor],
) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    softened_divergence(student, teacher, 1e4).backward()
    centred = (student - student.mean(dim=1, keepdim=True)) - (teacher - teacher.mean(dim=1, keepdim=True))
    torch.testing.assert_close(student.grad, (centred / (4 * 6)).detach(), rtol=2e-3, atol=1e-4)


def trained_student(spec: DistillResponse, teacher: bytes, context: StageContext) -> dict[str, Tensor]:
    return Network.from_bytes(spec.apply(teacher, context).model).module.state_dict()


def reference_student(
    images: Arrays, teacher: bytes, spec: DistillResponse, make_context: MakeContext
) -> dict[str, Tensor]:
    """Train by a plain loss that asks the teacher for every batch; T^2 KL is written as a cross-entropy."""
    network = Network.create(STUDENT.model_copy(update={"kwargs": STUDENT.kwargs | {
        "input_shape": [1, 8, 8], "num_outputs": 3}}), seed=0)  # fmt: skip
    frozen = Network.from_bytes(teacher).module

    def loss(outputs: Tensor, batch) -> Tensor:
        with torch.no_grad():
            soft_targets = functional.softmax(frozen(batch.inputs) / spec.temperature, dim=1)
        soft = functional.cross_entropy(outputs / spec.temperature, soft_targets)  # KL + entropy: same gradient
        hard = functional.cross_entropy(outputs, batch.labels)
        return spec.label_weight * hard + (1 - spec.label_weight) * spec.temperature**2 * soft

    fit(network.module, images, loss, spec.schedule, make_context())
    return network.module.state_dict()


@pytest.mark.parametrize("label_weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shift_pixels", [0, 1])
def test_apply_trains_as_a_plain_loop_that_asks_the_teacher_for_every_batch(
    teacher: bytes, make_context: MakeContext, label_weight: float, shift_pixels: int
) -> None:
    schedule = SHORT.model_validate(
        {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.01,
         "augmentation": {"shift_pixels": shift_pixels}}
    )  # fmt: skip
    spec = DistillResponse(student=STUDENT, label_weight=label_weight, schedule=schedule)
    context = make_context(load_baseline=lambda: teacher)
    expected = reference_student(context.load_split("train"), teacher, spec, make_context)
    torch.testing.assert_close(trained_student(spec, teacher, context), expected, rtol=1e-4, atol=1e-5)


def test_apply_ignores_the_teacher_when_only_the_labels_weigh(teacher: bytes, make_context: MakeContext) -> None:
    spec = DistillResponse(student=STUDENT, label_weight=1.0, schedule=SHORT)
    network = Network.from_bytes(teacher)
    with torch.no_grad():
        network.module.get_parameter("head.weight").mul_(0.5)  # softer answers, the same classes
    first = trained_student(spec, teacher, make_context(load_baseline=lambda: teacher))
    second = trained_student(spec, teacher, make_context(load_baseline=network.to_bytes))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_apply_ignores_the_labels_when_only_the_teacher_weighs(
    images: Arrays, teacher: bytes, make_context: MakeContext
) -> None:
    spec = DistillResponse(student=STUDENT, label_weight=0.0, schedule=SHORT)
    context = make_context(load_baseline=lambda: teacher)
    wrong = {"train": Arrays(images.x, (images.y + 1) % 3), "calibration": context.load_split("calibration")}
    right = dict(wrong, train=images)
    first = trained_student(spec, teacher, make_context(load_baseline=lambda: teacher, load_split=wrong.get))
    second = trained_student(spec, teacher, make_context(load_baseline=lambda: teacher, load_split=right.get))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("edge", "near"), [(0.0, 1e-6), (1.0, 1 - 1e-6)])
def test_apply_makes_no_jump_when_the_label_weight_reaches_its_bounds(
    teacher: bytes, make_context: MakeContext, edge: float, near: float
) -> None:
    losses = []
    for weight in (edge, near):
        spec = DistillResponse(student=STUDENT, label_weight=weight, schedule=SHORT.model_copy(update={"epochs": 1}))
        spec.apply(teacher, make_context(load_baseline=lambda: teacher, report=losses.append))
    assert losses[0].metrics["loss"] == pytest.approx(losses[1].metrics["loss"], rel=1e-4)


def test_apply_asks_the_teacher_once_when_nothing_is_augmented(
    teacher: bytes, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(module, inputs, batch_size):
        calls.append(len(inputs))
        return outputs_of(module, inputs, batch_size)

    monkeypatch.setattr("tasks.techniques.inference.outputs_of", counted)
    spec = DistillResponse(student=STUDENT, schedule=SHORT)
    spec.apply(teacher, make_context(load_baseline=lambda: teacher))
    assert calls == [12, 2, 42]  # calibration rows, the student's example, the train split


def test_apply_goes_on_with_the_incoming_model_when_no_student_is_given(
    teacher: bytes, make_context: MakeContext
) -> None:
    recipe = STUDENT.model_copy(update={"kwargs": STUDENT.kwargs | {"input_shape": [1, 8, 8], "num_outputs": 3}})
    incoming = Network.create(recipe, seed=5)
    spec = DistillResponse(schedule=Schedule(epochs=1, batch_size=16, optimizer="sgd", learning_rate=1e-9))
    applied = spec.apply(incoming.to_bytes(), make_context(load_baseline=lambda: teacher))
    result = Network.from_bytes(applied.model)
    assert result.architecture == incoming.architecture
    torch.testing.assert_close(dict(result.module.named_parameters()), dict(incoming.module.named_parameters()))


def test_apply_leaves_the_teacher_frozen_and_records_what_is_worth_showing(
    teacher: bytes, make_context: MakeContext
) -> None:
    details = DistillResponse(student=STUDENT, schedule=SHORT).apply(
        teacher, make_context(load_baseline=lambda: teacher)
    ).details  # fmt: skip
    num_teacher = sum(p.numel() for p in Network.from_bytes(teacher).module.parameters())
    assert details["teacher_accuracy"] == 1.0
    assert details["teacher_parameters"] == num_teacher
    assert details["student_share"] == details["student_parameters"] / num_teacher
    assert "warning" not in details


@pytest.mark.parametrize(("width", "message"), [(1, "below 10 %"), (6, "above 50 %")])
def test_apply_warns_when_the_student_is_out_of_the_useful_range(
    teacher: bytes, make_context: MakeContext, width: int, message: str
) -> None:
    student = STUDENT.model_copy(update={"kwargs": {"width": width, "blocks": [1]}})
    spec = DistillResponse(student=student, schedule=SHORT)
    warning = spec.apply(teacher, make_context(load_baseline=lambda: teacher)).details["warning"]
    assert message in str(warning)


def test_apply_refuses_a_teacher_below_the_floor_with_its_figure(
    images: Arrays, teacher: bytes, make_context: MakeContext
) -> None:
    half_wrong = Arrays(images.x, np.where(np.arange(42) < 21, images.y, (images.y + 1) % 3))
    context = make_context(load_baseline=lambda: teacher, load_split=lambda name: half_wrong)
    with pytest.raises(TechniqueError, match=r"accuracy on the 42 calibration rows is 0\.5000; .*teacher_floor=0\.9"):
        DistillResponse(student=STUDENT, teacher_floor=0.9).apply(teacher, context)


def test_apply_refuses_a_teacher_no_better_than_a_constant_guess(
    images: Arrays, teacher: bytes, make_context: MakeContext
) -> None:
    one_class = Arrays(images.x, np.zeros(42, dtype=np.int64))
    context = make_context(load_baseline=lambda: teacher, load_split=lambda name: one_class)
    with pytest.raises(TechniqueError, match=r"0\.3333; .* more than the 1\.0000 of a constant guess"):
        DistillResponse(student=STUDENT).apply(teacher, context)


def test_apply_refuses_a_student_whose_outputs_do_not_fit(teacher: bytes, make_context: MakeContext) -> None:
    student = STUDENT.model_copy(update={"kwargs": STUDENT.kwargs | {"num_outputs": 5}})
    with pytest.raises(TechniqueError, match=r"shape \[5\] for each row, but the teacher's have shape \[3\]"):
        DistillResponse(student=student).apply(teacher, make_context(load_baseline=lambda: teacher))


def test_apply_learns_the_teachers_outputs_when_the_task_is_regression(make_context: MakeContext) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    split = Arrays(rows, (rows @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32))
    linear = Architecture(
        factory="tasks.models.mlp:mlp", kwargs={"input_shape": [3], "num_outputs": 1, "hidden": []}
    )  # fmt: skip
    context = make_context(task="regression", input_shape=(3,), num_outputs=1, load_split=lambda name: split)
    baseline = Network.create(linear, seed=0)
    schedule = Schedule(epochs=150, batch_size=64, learning_rate=0.3)
    fit(baseline.module, split, label_loss("regression"), schedule, context)
    context = make_context(
        task="regression", input_shape=(3,), num_outputs=1, load_split=lambda name: split,
        load_baseline=baseline.to_bytes,
    )  # fmt: skip
    spec = DistillResponse(student=linear, label_weight=0.0, schedule=schedule)
    applied = spec.apply(b"", context)
    student = Network.from_bytes(applied.model).module
    inputs = torch.from_numpy(rows)
    gap = (outputs_of(student, inputs, 64) - outputs_of(baseline.module.eval(), inputs, 64)).abs().max()
    assert gap < 0.1  # of a range of 12; batch norm keeps the unbiased variance, 64 / 63 of that in training
    assert float(applied.details["teacher_r2"]) > 0.99


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"label_weight": 1.1}, {"alpha": 0.5}])
def test_distill_response_rejects_fields_that_are_unknown_or_out_of_bounds(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DistillResponse.model_validate(fields)
