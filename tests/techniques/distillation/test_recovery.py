from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.techniques.distillation.recovery import TEMPERATURE, recovery_loss
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]
KWARGS = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 6, "blocks": [1]}
RESNET = Architecture(factory="tasks.models.resnet:resnet", kwargs=KWARGS)


@pytest.fixture(scope="module")
def teacher(images: Arrays, make_context: MakeContext) -> Network:
    network = Network.create(RESNET, seed=0)
    fit(network.module, images, label_loss("classification"), Schedule(epochs=10, batch_size=8), make_context())
    return network


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_recovery_loss_blends_labels_and_teacher(
    teacher: Network, make_context: MakeContext, images: Arrays, weight: float
) -> None:
    inputs, labels = torch.from_numpy(images.x), torch.from_numpy(images.y)
    student = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(1))
    context = make_context(load_baseline=teacher.to_bytes)
    loss, facts = recovery_loss(context, Schedule(label_smoothing=0.1), images.x, weight)
    with torch.no_grad():
        answers = teacher.module(inputs)
    log_student, log_teacher = ((logits / TEMPERATURE).log_softmax(1) for logits in (student, answers))
    soft = TEMPERATURE**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean()
    hard = functional.cross_entropy(student, labels, label_smoothing=0.1)
    found = loss(student, Batch(inputs, labels, torch.arange(len(labels))))
    torch.testing.assert_close(found, (1 - weight) * hard + weight * soft)
    assert ("teacher_accuracy" in facts) == (weight > 0)


def test_recovery_loss_refuses_a_teacher_that_guesses(make_context: MakeContext, images: Arrays) -> None:
    untrained = Network.create(RESNET, seed=3)
    with torch.no_grad():
        for parameter in untrained.module.parameters():
            parameter.zero_()
    with pytest.raises(TechniqueError, match="constant guess"):
        recovery_loss(make_context(load_baseline=untrained.to_bytes), Schedule(), images.x, 0.5)


def test_recovery_loss_is_the_squared_error_against_the_teacher_for_regression(make_context: MakeContext) -> None:
    inputs = torch.linspace(-1, 1, 12)[:, None]
    linear = Network.create(
        Architecture(factory="tasks.models.mlp:mlp", kwargs={"input_shape": [1], "num_outputs": 1, "hidden": []}), 0
    )
    linear.module.train()(inputs)  # gives the standardisation its statistics
    linear.module.eval()
    with torch.no_grad():
        targets = linear.module(inputs)[:, 0]
    arrays = Arrays(inputs.numpy(), targets.numpy())
    context = make_context(task="regression", load_split=lambda _: arrays, load_baseline=linear.to_bytes)
    loss, _ = recovery_loss(context, Schedule(), arrays.x, 1.0)
    student = torch.zeros(12, 1)
    found = loss(student, Batch(inputs, torch.full((12,), 9.0), torch.arange(12)))
    torch.testing.assert_close(found, targets.square().mean())
