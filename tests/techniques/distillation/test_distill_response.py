import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.techniques.distillation.distill_response import ConfidenceFilter, DistillResponse
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1]})
SHORT = Schedule(epochs=2, batch_size=16)


TASK = {"task": "regression", "input_shape": (3,), "num_outputs": 1}
LINEAR = Architecture(factory="tasks.models.mlp:mlp", kwargs={"input_shape": [3], "num_outputs": 1, "hidden": []})


class KilledError(Exception):
    """Stands for SIGKILL."""


def trained_student(spec: DistillResponse, teacher: bytes, context: StageContext) -> dict[str, Tensor]:
    return Network.from_bytes(spec.apply(teacher, context).model).module.state_dict()


def reference_student(
    images: Arrays,
    teacher: bytes,
    spec: DistillResponse,
    make_context: MakeContext,
    temperatures: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Train by a plain loss that asks the teacher for every batch; T^2 KL is written as a cross-entropy.

    `temperatures` are those of the steps, one after another. Rows whose label is -1 have no label loss.
    """
    kwargs = STUDENT.kwargs | {"input_shape": [1, 8, 8], "num_outputs": 3}
    network = Network.create(STUDENT.model_copy(update={"kwargs": kwargs}), seed=0)
    frozen = Network.from_bytes(teacher).module
    steps = iter(temperatures or itertools.repeat(spec.temperature))

    def hard(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels, ignore_index=-1, reduction="sum") / len(labels)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        temperature = next(steps)
        with torch.no_grad():
            soft_targets = functional.softmax(frozen(batch.inputs) / temperature, dim=1)
        soft = functional.cross_entropy(outputs / temperature, soft_targets)  # KL + entropy: same gradient
        labels = batch.own_share * hard(outputs, batch.labels)
        if batch.partner_labels is not None:
            labels = labels + (1 - batch.own_share) * hard(outputs, batch.partner_labels)
        return spec.label_weight * labels + (1 - spec.label_weight) * temperature**2 * soft

    fit(network.module, images, loss, spec.schedule, make_context())
    return network.module.state_dict()


def plain_sgd(**fields: Any) -> Schedule:
    """Return a short schedule whose outcome follows the gradients closely, so that two formulations can be compared."""
    return Schedule.model_validate(
        {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.05} | fields
    )  # fmt: skip


@pytest.mark.parametrize("label_weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("varied", [{}, {"shift_pixels": 1}, {"mixup": 0.5}], ids=["plain", "shifted", "blended"])
def test_apply_trains_as_a_plain_loop_that_asks_the_teacher_for_every_batch(
    teacher: bytes, make_context: MakeContext, label_weight: float, varied: dict[str, float]
) -> None:
    spec = DistillResponse(student=STUDENT, label_weight=label_weight, schedule=plain_sgd(augmentation=varied))
    context = make_context(load_baseline=lambda: teacher)
    expected = reference_student(context.load_split("train"), teacher, spec, make_context)
    torch.testing.assert_close(trained_student(spec, teacher, context), expected, rtol=1e-4, atol=1e-5)


def test_apply_trains_as_a_plain_loop_whose_temperature_falls_step_by_step(
    teacher: bytes, make_context: MakeContext
) -> None:
    spec = DistillResponse(
        student=STUDENT, temperature=6.0, final_temperature=1.0, temperature_schedule="linear",
        label_weight=0.2, schedule=plain_sgd(),
    )  # fmt: skip
    sharp = Network.from_bytes(teacher)
    with torch.no_grad():
        sharp.module.get_parameter("head.weight").mul_(20)  # small logits teach the same at any temperature
    context = make_context(load_baseline=sharp.to_bytes)
    temperatures = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]  # 2 epochs of 3 batches
    expected = reference_student(context.load_split("train"), sharp.to_bytes(), spec, make_context, temperatures)
    torch.testing.assert_close(trained_student(spec, teacher, context), expected, rtol=1e-4, atol=1e-5)
    constant = spec.model_copy(update={"temperature_schedule": "constant"})
    other = trained_student(constant, teacher, make_context(load_baseline=sharp.to_bytes))
    assert (other["head.weight"] - expected["head.weight"]).abs().max() > 1e-3


def with_unlabelled(draw_images: Callable[[int, int], Arrays], make_context: MakeContext) -> Callable[[str], Arrays]:
    """Return a loader that has 20 unlabelled rows too."""
    usual, more = make_context().load_split, draw_images(20, 9)
    return lambda name: Arrays(more.x, np.full(20, -1)) if name == "unlabelled" else usual(name)


@pytest.mark.parametrize("varied", [{}, {"mixup": 0.5}], ids=["plain", "blended"])
def test_apply_learns_the_teachers_answers_alone_for_unlabelled_rows(
    teacher: bytes, make_context: MakeContext, draw_images: Callable[[int, int], Arrays], varied: dict[str, float]
) -> None:
    spec = DistillResponse(
        student=STUDENT, use_unlabelled=True, schedule=plain_sgd(augmentation=varied)
    )  # fmt: skip
    loader = with_unlabelled(draw_images, make_context)
    context = make_context(load_baseline=lambda: teacher, load_split=loader)
    rows = [loader("train"), loader("unlabelled")]
    both = Arrays(np.concatenate([part.x for part in rows]), np.concatenate([part.y for part in rows]))
    expected = reference_student(both, teacher, spec, make_context)
    applied = spec.apply(teacher, context)
    torch.testing.assert_close(Network.from_bytes(applied.model).module.state_dict(), expected, rtol=1e-4, atol=1e-5)
    assert applied.details["unlabelled_rows"] == 20


FILTERED = {"student": STUDENT, "label_weight": 0.0, "confidence_filter": {"only_where_right": True}}


@pytest.mark.parametrize("varied", [{}, {"shift_pixels": 1}], ids=["plain", "shifted"])
def test_apply_counts_the_soft_terms_that_it_left_out(
    images: Arrays, teacher: bytes, make_context: MakeContext, varied: dict[str, float]
) -> None:
    splits = {"train": Arrays(images.x, np.where(np.arange(42) < 14, (images.y + 1) % 3, images.y)),
              "calibration": make_context().load_split("calibration")}  # fmt: skip
    spec = DistillResponse.model_validate(FILTERED | {"schedule": {"epochs": 3, "augmentation": varied}})
    details = spec.apply(teacher, make_context(load_baseline=lambda: teacher, load_split=splits.get)).details
    assert details["share_of_soft_terms_left_out"] == pytest.approx(14 / 42, abs=0 if not varied else 0.1)


def test_apply_learns_nothing_when_every_soft_term_is_left_out_and_no_label_weighs(
    images: Arrays, teacher: bytes, make_context: MakeContext
) -> None:
    wrong = {"train": Arrays(images.x, (images.y + 1) % 3), "calibration": make_context().load_split("calibration")}
    spec = DistillResponse.model_validate(FILTERED | {"schedule": plain_sgd(weight_decay=0.0)})
    applied = spec.apply(teacher, make_context(load_baseline=lambda: teacher, load_split=wrong.get))
    kwargs = STUDENT.kwargs | {"input_shape": [1, 8, 8], "num_outputs": 3}
    fresh = Network.create(STUDENT.model_copy(update={"kwargs": kwargs}), seed=0)
    found = dict(Network.from_bytes(applied.model).module.named_parameters())
    torch.testing.assert_close(found, dict(fresh.module.named_parameters()), rtol=0, atol=0)
    assert applied.details["share_of_soft_terms_left_out"] == 1.0


def test_apply_makes_the_same_student_when_the_filter_rejects_nothing(
    teacher: bytes, make_context: MakeContext
) -> None:
    context = make_context(load_baseline=lambda: teacher)
    plain = DistillResponse(student=STUDENT, schedule=SHORT)
    every = plain.model_copy(update={"confidence_filter": ConfidenceFilter(min_confidence=1e-9)})
    found = every.apply(teacher, context)
    assert found.details["share_of_soft_terms_left_out"] == 0.0
    assert found.model == plain.apply(teacher, make_context(load_baseline=lambda: teacher)).model


def test_apply_refuses_a_filter_when_the_task_has_no_classes(make_context: MakeContext) -> None:
    spec = DistillResponse.model_validate(FILTERED)
    with pytest.raises(TechniqueError, match="confidence_filter needs classes, but the task is regression"):
        spec.apply(b"", make_context(**TASK))


@pytest.mark.parametrize("varied", [{}, {"shift_pixels": 1}], ids=["cached", "asked-per-view"])
def test_apply_ends_with_the_same_model_and_details_when_it_was_killed(
    teacher: bytes, make_context: MakeContext, draw_images: Callable[[int, int], Arrays], varied: dict[str, float]
) -> None:
    spec = DistillResponse.model_validate(
        {
            "student": STUDENT, "temperature": 8.0, "temperature_schedule": "cosine", "use_unlabelled": True,
            "confidence_filter": {"min_confidence": 0.55},
            "schedule": {"epochs": 4, "batch_size": 16, "checkpoint_every": 2, "augmentation": varied},
        }
    )  # fmt: skip
    loader = with_unlabelled(draw_images, make_context)
    members = {"load_baseline": lambda: teacher, "load_split": loader}
    history: list[EpochRecord] = []
    whole = spec.apply(b"", make_context(**members, report=history.append))

    def report_until_killed(record: EpochRecord) -> None:
        if record.step == 4:
            raise KilledError

    dying = make_context(**members, report=report_until_killed)
    with pytest.raises(KilledError):
        spec.apply(b"", dying)
    again: list[EpochRecord] = []
    resumed = spec.apply(b"", make_context(**members, report=again.append, checkpoints=dying.checkpoints))
    assert resumed.model == whole.model
    assert resumed.details == whole.details
    assert again == history
    assert 0 < float(whole.details["share_of_soft_terms_left_out"]) < 1


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


@pytest.mark.parametrize(
    ("width", "message"), [(1, "below 10 % accuracy often suffers: teach it inner features"), (6, "above 50 %")]
)
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


@pytest.fixture(scope="module")
def plane() -> Arrays:
    """Rows whose target is linear in them."""
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    return Arrays(rows, (rows @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32))


@pytest.fixture(scope="module")
def linear_teacher(plane: Arrays, make_context: MakeContext) -> Network:
    network = Network.create(LINEAR, seed=0)
    fit(network.module, plane, label_loss("regression"), PATIENT, make_context(**TASK))
    return network


PATIENT = Schedule(epochs=150, batch_size=64, learning_rate=0.3)


def test_apply_learns_the_teachers_outputs_when_the_task_is_regression(
    plane: Arrays, linear_teacher: Network, make_context: MakeContext
) -> None:
    context = make_context(**TASK, load_split=lambda name: plane, load_baseline=linear_teacher.to_bytes)
    spec = DistillResponse(student=LINEAR, label_weight=0.0, schedule=PATIENT)
    applied = spec.apply(b"", context)
    student = Network.from_bytes(applied.model).module
    inputs = torch.from_numpy(plane.x)
    gap = (outputs_of(student, inputs, 64) - outputs_of(linear_teacher.module.eval(), inputs, 64)).abs().max()
    assert gap < 0.1  # of a range of 12; batch norm keeps the unbiased variance, 64 / 63 of that in training
    assert float(applied.details["teacher_r2"]) > 0.99


def test_apply_learns_from_unlabelled_rows_when_the_task_is_regression(
    plane: Arrays, linear_teacher: Network, make_context: MakeContext
) -> None:
    splits = {"train": Arrays(plane.x[:8], plane.y[:8]), "calibration": plane,
              "unlabelled": Arrays(plane.x[8:], np.full(56, np.nan, dtype=np.float32))}  # fmt: skip
    records: list[EpochRecord] = []
    context = make_context(
        **TASK, load_split=splits.get, load_baseline=linear_teacher.to_bytes, report=records.append
    )  # fmt: skip
    applied = DistillResponse(student=LINEAR, use_unlabelled=True, schedule=PATIENT).apply(b"", context)
    student = Network.from_bytes(applied.model).module
    errors = outputs_of(student, torch.from_numpy(plane.x), 64)[:, 0].numpy() - plane.y
    assert np.abs(errors[8:]).max() < 0.2
    assert records[-1].metrics["train_rmse"] < 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"final_temperature": 0},
        {"temperature_schedule": "step"},
        {"label_weight": 1.1},
        {"confidence_filter": {"min_confidence": 1.1}},
        {"teacher_cache_mib": -1},
        {"alpha": 0.5},
    ],
)
def test_distill_response_rejects_fields_that_are_unknown_or_out_of_bounds(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DistillResponse.model_validate(fields)
