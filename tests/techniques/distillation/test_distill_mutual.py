from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tasks.contracts.errors import DataError, TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.techniques.distillation.cohort import Cohort, mutual_loss
from tasks.techniques.distillation.distill_mutual import DistillMutual
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext

MakeContext = Callable[..., StageContext]

STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1]})
OTHER = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 6, "blocks": [1]})
SHORT = Schedule(epochs=2, batch_size=16)


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


@pytest.fixture
def cohort() -> Cohort:
    torch.manual_seed(0)
    return Cohort([nn.Linear(4, 3).double() for _ in range(3)])


@pytest.fixture
def batch() -> Batch:
    inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Batch(inputs, torch.arange(6) % 3, torch.arange(6))


def test_mutual_loss_equals_its_formula_in_numpy(cohort: Cohort, batch: Batch) -> None:
    outputs = [peer(batch.inputs).detach().numpy() for peer in cohort.peers]
    expected = 0.0
    for m, own in enumerate(outputs):
        expected -= np.log(softmax(own))[np.arange(6), batch.labels].mean()
        for position, other in enumerate(outputs):
            if position != m:
                p, q = softmax(other / 2), softmax(own / 2)
                expected += 0.7 / 2 * 4 * (p * np.log(p / q)).sum(axis=1).mean()
    loss = mutual_loss(cohort, label_loss("classification"), temperature=2.0, mutual_weight=0.7)
    assert loss(cohort(batch.inputs), batch).item() == pytest.approx(expected, rel=1e-12)


def test_mutual_loss_of_two_peers_equals_the_value_worked_by_hand() -> None:
    cohort = Cohort([nn.Linear(1, 2, bias=False).double() for _ in range(2)])
    with torch.no_grad():  # probabilities (1/2, 1/2) and (1/4, 3/4) for the input 1
        cohort.peers[0].weight.zero_()
        cohort.peers[1].weight.copy_(torch.tensor([[0.0], [np.log(3)]]))
    batch = Batch(torch.ones(1, 1, dtype=torch.float64), torch.tensor([1]), torch.tensor([0]))
    expected = np.log(2) + np.log(4 / 3)  # the labels' terms
    expected += 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    expected += 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    loss = mutual_loss(cohort, label_loss("classification"), 1.0, 1.0)
    assert loss(cohort(batch.inputs), batch).item() == pytest.approx(expected, rel=1e-14)


def test_mutual_loss_sends_no_gradient_through_the_others(cohort: Cohort, batch: Batch) -> None:
    mutual_loss(cohort, label_loss("classification"), 1.0, 1.0)(cohort(batch.inputs), batch).backward()
    outputs = [softmax(peer(batch.inputs).detach().numpy()) for peer in cohort.peers]
    onehot = np.eye(3)[batch.labels.numpy()]
    for m, own in enumerate(outputs):
        others = np.mean([one for position, one in enumerate(outputs) if position != m], axis=0)
        expected = ((own - onehot) + (own - others)).T @ batch.inputs.numpy() / 6
        np.testing.assert_allclose(cohort.peers[m].weight.grad, expected, rtol=1e-9, atol=1e-12)


def test_mutual_loss_is_the_labels_alone_when_peers_agree(batch: Batch) -> None:
    peer = nn.Linear(4, 3).double()
    cohort = Cohort([peer, peer])
    hard = label_loss("classification")
    loss = mutual_loss(cohort, hard, 1.0, 1.0)(cohort(batch.inputs), batch)
    assert loss.item() == pytest.approx(2 * hard(peer(batch.inputs), batch).item(), rel=1e-12)


def test_apply_trains_without_a_baseline_and_gives_out_the_best_student(make_context: MakeContext) -> None:
    records: list[EpochRecord] = []
    schedule = Schedule(epochs=12, batch_size=8, learning_rate=1e-2)
    spec = DistillMutual(student=STUDENT, num_peers=2, other_peers=(OTHER,), schedule=schedule)
    context = make_context(report=records.append)  # its baseline fails the test
    applied = spec.apply(b"", context)
    student = Network.from_bytes(applied.model)
    assert student.architecture.kwargs["width"] == 4
    assert len(records) == spec.planned_epochs
    split = context.load_split("calibration")
    accuracy = (outputs_of(student.module, torch.from_numpy(split.x), 16).argmax(1).numpy() == split.y).mean()
    assert applied.details["calibration_accuracy"] == pytest.approx(accuracy)
    of_all = [float(one) for one in str(applied.details["calibration_accuracy_of_all"]).split(", ")]
    assert len(of_all) == 2
    assert accuracy == pytest.approx(max(of_all), abs=1e-4)
    assert accuracy > 0.6
    assert applied.details["peers"] == 3
    assert spec.starts_over


def test_apply_gives_out_the_first_student_of_the_incoming_architecture_when_asked(
    teacher: bytes, make_context: MakeContext
) -> None:
    still = Schedule(epochs=1, batch_size=42, optimizer="sgd", learning_rate=1e-9)
    applied = DistillMutual(given_out="first", schedule=still).apply(teacher, make_context(seed=4))
    trained = Network.from_bytes(applied.model)
    drawn = Network.create(Network.from_bytes(teacher).architecture, seed=4)
    torch.testing.assert_close(dict(trained.module.named_parameters()), dict(drawn.module.named_parameters()))
    assert applied.details["given_out_peer"] == 1


def test_apply_never_asks_for_the_baseline(make_context: MakeContext) -> None:
    def refuse() -> bytes:
        raise DataError("there is no baseline")

    applied = DistillMutual(student=STUDENT, schedule=SHORT).apply(b"", make_context(load_baseline=refuse))
    assert Network.from_bytes(applied.model).architecture.factory == STUDENT.factory


def test_apply_refuses_regression_and_a_single_peer(make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match="the task is regression; use distill_response"):
        DistillMutual(student=STUDENT).apply(b"", make_context(task="regression"))
    with pytest.raises(TechniqueError, match="needs two peers"):
        DistillMutual(student=STUDENT, num_peers=1).apply(b"", make_context())
