import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.techniques.distillation.losses import (
    decoupled_divergence,
    nontarget_class_divergences,
    softened_divergence,
    softened_divergences,
    softened_mean,
    squared_errors,
    target_class_divergences,
)

CLASSES = torch.tensor([0, 3, 1, 1, 2, 0])
TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


@pytest.fixture(scope="module")
def logits() -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits [6, 4] in float64."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return student, teacher


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row, term by term."""
    return np.array([sum(a * math.log(a / b) for a, b in zip(*row, strict=True)) for row in zip(p, q, strict=True)])


def log_probabilities(*shares: float) -> Tensor:
    return torch.tensor([shares], dtype=torch.float64).log()


def test_softened_divergence_equals_the_value_worked_by_hand() -> None:
    # softmax(0, 2 ln 3 / 2) = (1/4, 3/4) and softmax(0, 0) = (1/2, 1/2) at T = 2
    student = torch.zeros(1, 2, dtype=torch.float64)
    teacher = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64)
    expected = 4 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    assert softened_divergence(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_softened_divergences_equal_their_formula_in_numpy(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = (softmax(z.numpy() / temperature) for z in logits)
    expected = temperature**2 * divergence(teacher, student)
    np.testing.assert_allclose(softened_divergences(*logits, temperature), expected, rtol=1e-12)
    assert softened_divergence(*logits, temperature).item() == pytest.approx(expected.mean(), rel=1e-12)


def test_softened_divergence_has_the_gradient_of_its_differences(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    assert torch.autograd.gradcheck(lambda s: softened_divergence(s, teacher, 4.0), (student,))


def test_softened_divergence_has_the_gradient_of_its_docstring(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    softened_divergence(student, teacher, 4.0).backward()
    expected = 4 * (functional.softmax(student / 4, dim=1) - functional.softmax(teacher / 4, dim=1)) / 6
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-10, atol=1e-12)


def centred(z: Tensor) -> Tensor:
    return z - z.mean(dim=1, keepdim=True)


def test_softened_divergence_matches_centred_logits_when_the_temperature_is_large(
    logits: tuple[Tensor, Tensor],
) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    value = softened_divergences(student, teacher, 1e4)
    value.mean().backward()
    gap = (centred(student) - centred(teacher)).detach()
    torch.testing.assert_close(student.grad, gap / (4 * 6), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(value.detach(), gap.square().sum(dim=1) / (2 * 4), rtol=2e-3, atol=1e-4)


def test_decoupled_terms_equal_the_values_worked_by_hand() -> None:
    # the class has 1/2 of the teacher's and 1/4 of the student's belief; of the rest the teacher gives the other
    # two classes 1/2 and 1/2, the student 2/3 and 1/3
    teacher, student = log_probabilities(1 / 2, 1 / 4, 1 / 4), log_probabilities(1 / 4, 1 / 2, 1 / 4)
    classes = torch.tensor([0])
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    assert target_class_divergences(student, teacher, classes, 1.0).item() == pytest.approx(target, rel=1e-14)
    assert nontarget_class_divergences(student, teacher, classes, 1.0).item() == pytest.approx(others, rel=1e-14)
    both = decoupled_divergence(
        2 * student, 2 * teacher, classes, temperature=2.0, target_weight=3.0, nontarget_weight=5.0
    )
    assert both.item() == pytest.approx(4 * (3 * target + 5 * others), rel=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_decoupled_terms_equal_their_formulas_in_numpy(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    rows = np.arange(6)
    others = np.array([[k for k in range(4) if k != c] for c in CLASSES.tolist()])
    student, teacher = (softmax(z.numpy() / temperature) for z in logits)
    p, q = teacher[rows, CLASSES], student[rows, CLASSES]
    target = divergence(np.stack([p, 1 - p], axis=1), np.stack([q, 1 - q], axis=1))
    rest = divergence(
        teacher[rows[:, None], others] / (1 - p)[:, None], student[rows[:, None], others] / (1 - q)[:, None]
    )
    np.testing.assert_allclose(target_class_divergences(*logits, CLASSES, temperature), target, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(nontarget_class_divergences(*logits, CLASSES, temperature), rest, rtol=1e-9, atol=1e-14)
    weighed = decoupled_divergence(*logits, CLASSES, temperature=temperature, target_weight=1.5, nontarget_weight=8.0)
    assert weighed.item() == pytest.approx(temperature**2 * (1.5 * target + 8 * rest).mean(), rel=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_decoupled_terms_make_up_the_plain_divergence_when_they_are_coupled(
    logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    p = functional.softmax(logits[1] / temperature, dim=1).gather(1, CLASSES[:, None]).squeeze(1)
    target = target_class_divergences(*logits, CLASSES, temperature)
    rest = nontarget_class_divergences(*logits, CLASSES, temperature)
    coupled = temperature**2 * (target + (1 - p) * rest)
    torch.testing.assert_close(coupled, softened_divergences(*logits, temperature), rtol=1e-11, atol=1e-14)


def test_decoupled_divergence_has_the_gradient_of_its_differences(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]

    def value(s: Tensor) -> Tensor:
        return decoupled_divergence(s, teacher, CLASSES, temperature=4.0, target_weight=1.0, nontarget_weight=8.0)

    assert torch.autograd.gradcheck(value, (student,))


def test_nontarget_class_divergences_match_centred_logits_when_the_temperature_is_large(
    logits: tuple[Tensor, Tensor],
) -> None:
    others = torch.tensor([[k for k in range(4) if k != c] for c in CLASSES.tolist()])
    gap = centred(logits[0].gather(1, others)) - centred(logits[1].gather(1, others))
    found = 1e8 * nontarget_class_divergences(*logits, CLASSES, 1e4)
    torch.testing.assert_close(found, gap.square().sum(dim=1) / (2 * 3), rtol=2e-3, atol=1e-4)


def test_nontarget_class_divergences_are_zero_when_there_are_two_classes(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0][:, :2], logits[1][:, :2]
    classes = CLASSES % 2
    assert torch.equal(nontarget_class_divergences(student, teacher, classes, 4.0), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(
        16 * target_class_divergences(student, teacher, classes, 4.0), softened_divergences(student, teacher, 4.0)
    )


def test_decoupled_divergence_stays_finite_when_the_teacher_is_certain() -> None:
    # 1 - p is below the smallest float32; its logarithm is -1000
    student = torch.tensor([[1.0, 0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[1000.0, 0.0, 1.0]])
    value = decoupled_divergence(
        student, teacher, torch.tensor([0]), temperature=1.0, target_weight=1.0, nontarget_weight=1.0
    )
    value.backward()
    q = math.exp(1) / (math.exp(1) + 1 + math.exp(2))
    p_1, q_1 = 1 / (1 + math.e), 1 / (1 + math.exp(2))
    rest = p_1 * math.log(p_1 / q_1) + (1 - p_1) * math.log((1 - p_1) / (1 - q_1))
    assert value.item() == pytest.approx(-math.log(q) + rest, rel=1e-6)
    assert torch.isfinite(student.grad).all()


def test_softened_mean_equals_the_value_worked_by_hand() -> None:
    teachers = 2 * torch.stack([log_probabilities(0.9, 0.1) + 7, log_probabilities(0.5, 0.5) - 3])
    joined = softened_mean(teachers, 2.0)
    torch.testing.assert_close(joined, 2 * log_probabilities(0.7, 0.3))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_softened_mean_has_the_mean_probabilities_in_numpy(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    joined = softened_mean(torch.stack(logits), temperature)
    expected = (softmax(logits[0].numpy() / temperature) + softmax(logits[1].numpy() / temperature)) / 2
    np.testing.assert_allclose(softmax(joined.numpy() / temperature), expected, rtol=1e-12)


def test_softened_mean_of_one_teacher_teaches_as_it_does_alone(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    joined = softened_mean(teacher[None], 4.0)
    torch.testing.assert_close(softened_divergence(student, joined, 4.0), softened_divergence(student, teacher, 4.0))


def test_softened_mean_averages_centred_logits_when_the_temperature_is_large(logits: tuple[Tensor, Tensor]) -> None:
    joined = softened_mean(torch.stack(logits), 1e6)
    torch.testing.assert_close(centred(joined), (centred(logits[0]) + centred(logits[1])) / 2, rtol=1e-4, atol=1e-4)


def test_squared_errors_equal_the_value_worked_by_hand() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [2.5]])
    assert torch.equal(squared_errors(student, teacher), torch.tensor([9.0, 0.25]))


def test_squared_errors_have_the_gradient_of_their_differences(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    assert torch.autograd.gradcheck(lambda s: squared_errors(s, teacher), (student,))
