from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.techniques.distillation.distill_decoupled import DistillDecoupled, SoftWarmup
from tasks.techniques.loss import Batch
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

KWARGS = {"width": 4, "blocks": [1]}
STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs=KWARGS)


class KilledError(Exception):
    """Stands for SIGKILL."""


def masked_divergence(student: Tensor, teacher: Tensor, classes: Tensor, spec: DistillDecoupled) -> Tensor:
    """Write DKD another way: probabilities are added up, and the class is pushed out of the softmax by -1000."""
    temperature = spec.temperature
    of_class = functional.one_hot(classes, 3).bool()
    p, q = functional.softmax(teacher / temperature, dim=1), functional.softmax(student / temperature, dim=1)
    two = [torch.stack([(x * of_class).sum(1), (x * ~of_class).sum(1)], dim=1) for x in (p, q)]
    target = functional.kl_div(two[1].log(), two[0], reduction="batchmean")
    rest = [functional.softmax(z / temperature - 1000.0 * of_class, dim=1) for z in (teacher, student)]
    others = (rest[0] * (rest[0] + 1e-30).log() - rest[0] * (rest[1] + 1e-30).log()).sum(1).mean()
    return temperature**2 * (spec.target_weight * target + spec.nontarget_weight * others)


def reference_student(
    teacher: bytes, spec: DistillDecoupled, context: StageContext, num_warmup: int
) -> dict[str, Tensor]:
    """Train by a plain loss that asks the teacher for every batch and counts its own steps."""
    recipe = STUDENT.model_copy(update={"kwargs": KWARGS | {"input_shape": [1, 8, 8], "num_outputs": 3}})
    network = Network.create(recipe, seed=0)
    frozen = Network.from_bytes(teacher).module
    step = 0

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        nonlocal step
        step += 1
        with torch.no_grad():
            answers = frozen(batch.inputs)
        total = torch.zeros(())
        blend = [(batch.labels, batch.own_share), (batch.partner_labels, 1 - batch.own_share)]
        for labels, share in blend:
            if labels is not None:
                soft = min(1, step / num_warmup) * masked_divergence(outputs, answers, labels, spec)
                total = total + share * (spec.label_weight * functional.cross_entropy(outputs, labels) + soft)
        return total

    fit(network.module, context.load_split("train"), loss, spec.schedule, context)
    return network.module.state_dict()


@pytest.mark.parametrize("varied", [{}, {"shift_pixels": 1}, {"mixup": 0.5}], ids=["plain", "shifted", "blended"])
@pytest.mark.parametrize("weights", [(1.0, 8.0, 1.0), (2.0, 0.0, 0.5), (0.0, 3.0, 0.0)])
def test_apply_trains_as_a_plain_loop_that_asks_the_teacher_for_every_batch(
    teacher: bytes, make_context: MakeContext, varied: dict[str, float], weights: tuple[float, float, float]
) -> None:
    schedule = {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.02, "augmentation": varied}
    fields = dict(zip(("target_weight", "nontarget_weight", "label_weight"), weights, strict=True))
    spec = DistillDecoupled.model_validate(
        {"student": STUDENT, "soft_warmup_fraction": 0.5, "schedule": schedule, **fields}
    )
    expected = reference_student(teacher, spec, make_context(), num_warmup=3)
    applied = spec.apply(b"", make_context(load_baseline=lambda: teacher))
    torch.testing.assert_close(Network.from_bytes(applied.model).module.state_dict(), expected, rtol=1e-4, atol=1e-5)


def test_soft_warmup_equals_the_values_worked_by_hand() -> None:
    warmup = SoftWarmup(0.4)
    shares = []
    for step in range(10):
        warmup.before_step(step, 10)
        shares.append(warmup.share)
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    none = SoftWarmup(0.0)
    none.before_step(0, 10)
    assert none.share == 1.0


def test_apply_makes_no_jump_when_the_weights_reach_zero(teacher: bytes, make_context: MakeContext) -> None:
    losses: list[EpochRecord] = []
    for weight in (0.0, 1e-7):
        spec = DistillDecoupled(
            student=STUDENT, target_weight=weight, nontarget_weight=weight, schedule=Schedule(epochs=1, batch_size=16)
        )
        spec.apply(b"", make_context(load_baseline=lambda: teacher, report=losses.append))
    assert losses[0].metrics["loss"] == pytest.approx(losses[1].metrics["loss"], rel=1e-5)


def test_apply_ends_with_the_same_model_and_details_when_it_was_killed(
    teacher: bytes, make_context: MakeContext
) -> None:
    schedule = {"epochs": 4, "batch_size": 16, "checkpoint_every": 2, "augmentation": {"shift_pixels": 1}}
    spec = DistillDecoupled.model_validate({"student": STUDENT, "soft_warmup_fraction": 0.9, "schedule": schedule})
    whole = spec.apply(b"", make_context(load_baseline=lambda: teacher))

    def report_until_killed(record: EpochRecord) -> None:
        if record.step == 4:
            raise KilledError

    dying = make_context(load_baseline=lambda: teacher, report=report_until_killed)
    with pytest.raises(KilledError):
        spec.apply(b"", dying)
    resumed = spec.apply(b"", make_context(load_baseline=lambda: teacher, checkpoints=dying.checkpoints))
    assert resumed == whole


def test_apply_goes_on_with_the_incoming_model_when_no_student_is_given(
    teacher: bytes, make_context: MakeContext
) -> None:
    spec = DistillDecoupled(schedule=Schedule(epochs=1, batch_size=16, optimizer="sgd", learning_rate=1e-9))
    assert not spec.starts_over
    found = Network.from_bytes(spec.apply(teacher, make_context(load_baseline=lambda: teacher)).model)
    incoming = Network.from_bytes(teacher)
    torch.testing.assert_close(dict(found.module.named_parameters()), dict(incoming.module.named_parameters()))


def test_apply_refuses_a_task_that_has_no_classes(make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match=r"needs classes, but the task is regression.*use distill_response"):
        DistillDecoupled().apply(b"", make_context(task="regression", input_shape=(3,), num_outputs=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_weight": 0, "nontarget_weight": 0, "label_weight": 0}, "are all 0; give one of them a weight"),
        ({"soft_warmup_fraction": 1}, "less than 1"),
        ({"beta": 8}, "beta"),
    ],
)
def test_distill_decoupled_rejects_fields_that_are_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DistillDecoupled.model_validate(fields)
