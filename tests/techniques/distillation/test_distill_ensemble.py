from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.techniques.distillation.distill_ensemble import DistillEnsemble
from tasks.techniques.distillation.ensemble import Ensemble
from tasks.techniques.loss import Batch, Loss, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

SHAPES = {"input_shape": [1, 8, 8], "num_outputs": 3}
SMALL = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 3, "blocks": [1]})
BIG = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 5, "blocks": [1]})


class KilledError(Exception):
    """Stands for SIGKILL."""


def linear(values: list[list[float]]) -> torch.nn.Module:
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor(values)
    return layer


def test_ensemble_answers_with_the_mean_probability_at_its_temperature() -> None:
    members = [linear([[1.0, 0.0], [0.0, 1.0]]), linear([[0.0, 4.0], [2.0, 0.0]])]
    inputs = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    probabilities = sum(functional.softmax(member(inputs) / 2, dim=1) for member in members) / 2
    joined = Ensemble(members, "classification", 2.0)
    torch.testing.assert_close(functional.softmax(joined(inputs) / 2, dim=1), probabilities)


def test_ensemble_answers_with_the_mean_output_when_the_task_is_regression() -> None:
    members = [linear([[1.0, 0.0], [0.0, 1.0]]), linear([[0.0, 4.0], [2.0, 0.0]])]
    assert Ensemble(members, "regression", 2.0)(torch.tensor([[1.0, 2.0]])).tolist() == [[4.5, 2.0]]


def reference_student(teacher: bytes, spec: DistillEnsemble, make_context: MakeContext) -> dict[str, Tensor]:
    """Train the members and the student by plain loops; soft targets are probabilities, averaged as such."""
    weight, temperature = spec.label_weight, spec.temperature
    train = make_context().load_split("train")

    def learning_from(networks: list[torch.nn.Module]) -> Loss:
        def loss(outputs: Tensor, batch: Batch) -> Tensor:
            with torch.no_grad():
                targets = sum(functional.softmax(net(batch.inputs) / temperature, dim=1) for net in networks)
            soft = functional.cross_entropy(outputs / temperature, targets / len(networks))
            return weight * functional.cross_entropy(outputs, batch.labels) + (1 - weight) * temperature**2 * soft

        return loss

    def built(architecture: Architecture, seed: int) -> torch.nn.Module:
        recipe = architecture.model_copy(update={"kwargs": architecture.kwargs | SHAPES})
        return Network.create(recipe, seed).module

    baseline = Network.from_bytes(teacher).module
    teachers: list[torch.nn.Module] = []
    for number in range(spec.num_members):
        member = built(spec.member or spec.student, seed=number + 1)
        first = 1 + number * spec.member_schedule.epochs
        fit(member, train, learning_from([baseline]), spec.member_schedule, make_context(), first_step=first)
        teachers.append(member)
    if spec.include_baseline:
        teachers.append(baseline)
    student = built(spec.student, seed=0)
    first = 1 + spec.num_members * spec.member_schedule.epochs
    fit(student, train, learning_from(teachers), spec.schedule, make_context(), first_step=first)
    return student.state_dict()


def sgd(epochs: int) -> Schedule:
    return Schedule(epochs=epochs, batch_size=16, optimizer="sgd", learning_rate=0.05, checkpoint_every=1)


@pytest.mark.parametrize("fields", [{"member": BIG}, {"include_baseline": True, "label_weight": 0.1}])
def test_apply_trains_as_plain_loops_over_averaged_probabilities(
    teacher: bytes, make_context: MakeContext, fields: dict[str, Any]
) -> None:
    spec = DistillEnsemble.model_validate(
        {"student": SMALL, "num_members": 2, "member_schedule": sgd(3), "schedule": sgd(2), **fields}
    )
    expected = reference_student(teacher, spec, make_context)
    applied = spec.apply(b"", make_context(load_baseline=lambda: teacher))
    torch.testing.assert_close(Network.from_bytes(applied.model).module.state_dict(), expected, rtol=1e-4, atol=1e-5)


SPEC = DistillEnsemble(
    student=SMALL, member=BIG, num_members=2, include_baseline=True, member_schedule=sgd(2), schedule=sgd(2)
)


@pytest.fixture(scope="module")
def uninterrupted(teacher: bytes, make_context: MakeContext) -> tuple[Applied, list[EpochRecord]]:
    history: list[EpochRecord] = []
    return SPEC.apply(b"", make_context(load_baseline=lambda: teacher, report=history.append)), history


def test_apply_records_what_is_worth_showing(uninterrupted: tuple[Applied, list[EpochRecord]]) -> None:
    applied, history = uninterrupted
    assert [record.step for record in history] == [1, 2, 3, 4, 5, 6]
    assert SPEC.planned_epochs == 6
    details = applied.details
    assert details["num_members"] == 2
    assert 0 <= float(details["members_mean_accuracy"]) <= 1
    assert float(details["ensemble_accuracy"]) > 1 / 3
    assert details["teacher_accuracy"] == 1.0
    assert details["teacher_runs"] == details["members_teacher_runs"] == "once"
    assert details["student_share"] == details["student_parameters"] / details["teacher_parameters"]
    assert Network.from_bytes(applied.model).architecture.kwargs["width"] == 3


class MortalStore:
    """A checkpoint store whose process dies just before or just after one of its writes."""

    def __init__(self, surviving_saves: int, *, writes_the_last: bool) -> None:
        self.data: bytes | None = None
        self._left = surviving_saves
        self._writes_the_last = writes_the_last

    def save(self, data: bytes) -> None:
        if self._left or self._writes_the_last:
            self.data = data
        if not self._left:
            raise KilledError
        self._left -= 1

    def load(self) -> bytes | None:
        return self.data


@pytest.mark.parametrize(
    ("surviving_saves", "writes_the_last"), [*((saves, True) for saves in range(6)), (0, False), (2, False)]
)
def test_apply_ends_with_the_same_model_and_history_when_it_was_killed(
    surviving_saves: int,
    writes_the_last: bool,
    teacher: bytes,
    make_context: MakeContext,
    uninterrupted: tuple[Applied, list[EpochRecord]],
) -> None:
    store = MortalStore(surviving_saves, writes_the_last=writes_the_last)
    with pytest.raises(KilledError):
        SPEC.apply(b"", make_context(load_baseline=lambda: teacher, checkpoints=store))
    healthy = MortalStore(100, writes_the_last=True)
    healthy.data = store.data
    history: list[EpochRecord] = []
    context = make_context(load_baseline=lambda: teacher, checkpoints=healthy, report=history.append)
    assert SPEC.apply(b"", context) == uninterrupted[0]
    assert history == uninterrupted[1]


def test_apply_trains_nothing_again_when_every_epoch_was_saved(
    teacher: bytes, make_context: MakeContext, uninterrupted: tuple[Applied, list[EpochRecord]]
) -> None:
    store = MortalStore(100, writes_the_last=True)
    SPEC.apply(b"", make_context(load_baseline=lambda: teacher, checkpoints=store))
    finished = MortalStore(0, writes_the_last=False)  # a save would raise
    finished.data = store.data
    assert SPEC.apply(b"", make_context(load_baseline=lambda: teacher, checkpoints=finished)) == uninterrupted[0]


def test_apply_starts_anew_when_the_checkpoint_is_damaged(
    teacher: bytes, make_context: MakeContext, uninterrupted: tuple[Applied, list[EpochRecord]]
) -> None:
    store = MortalStore(100, writes_the_last=True)
    store.data = b"\x08\x00\x00\x00\x00\x00\x00\x00not JSON"
    assert SPEC.apply(b"", make_context(load_baseline=lambda: teacher, checkpoints=store)) == uninterrupted[0]


def test_apply_gives_the_members_the_incoming_architecture_when_no_student_is_given(
    teacher: bytes, make_context: MakeContext
) -> None:
    barely = Schedule(epochs=1, batch_size=16, optimizer="sgd", learning_rate=1e-9)
    spec = DistillEnsemble(num_members=2, include_baseline=True, member_schedule=barely, schedule=barely)
    assert not spec.starts_over
    found = Network.from_bytes(spec.apply(teacher, make_context(load_baseline=lambda: teacher)).model)
    incoming = Network.from_bytes(teacher)
    assert found.architecture == incoming.architecture
    torch.testing.assert_close(dict(found.module.named_parameters()), dict(incoming.module.named_parameters()))


def test_apply_refuses_an_ensemble_below_the_floor_with_its_figure(teacher: bytes, make_context: MakeContext) -> None:
    barely = Schedule(epochs=1, batch_size=16, learning_rate=1e-9)
    spec = DistillEnsemble(student=SMALL, num_members=2, teacher_floor=0.9, member_schedule=barely)
    with pytest.raises(TechniqueError, match=r"accuracy on the 12 calibration rows is 0\.\d{4}; .*teacher_floor=0\.9"):
        spec.apply(b"", make_context(load_baseline=lambda: teacher))


def test_apply_learns_the_mean_output_when_the_task_is_regression(make_context: MakeContext) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    split = Arrays(rows, (rows @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32))
    line = Architecture(factory="tasks.models.mlp:mlp", kwargs={"input_shape": [3], "num_outputs": 1, "hidden": []})
    shapes = {"task": "regression", "input_shape": (3,), "num_outputs": 1}
    patient = Schedule(epochs=100, batch_size=64, learning_rate=0.3)
    baseline = Network.create(line, seed=0)
    fit(baseline.module, split, label_loss("regression"), patient, make_context(**shapes))
    spec = DistillEnsemble(
        student=line, num_members=2, label_weight=0.0, member_schedule=patient, schedule=patient
    )  # fmt: skip
    context = make_context(**shapes, load_split=lambda name: split, load_baseline=baseline.to_bytes)
    details = spec.apply(b"", context).details
    assert float(details["ensemble_r2"]) > 0.99
    assert float(details["members_mean_r2"]) > 0.99
