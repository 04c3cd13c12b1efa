import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.contracts.errors import TechniqueError
from tasks.techniques.distillation.guides import (
    AttentionGuide,
    HintGuide,
    RelationGuide,
    angle_relation,
    attention_distance,
    distance_relation,
    embeddings,
)
from tasks.techniques.distillation.layer_pairs import LayerPair

PAIR = LayerPair(teacher="t", student="s")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def huber(difference: np.ndarray) -> np.ndarray:
    size = np.abs(difference)
    return np.where(size < 1, 0.5 * size**2, size - 0.5)


def turned(features: Tensor) -> Tensor:
    """Rotate (or mirror) rows by a drawn orthogonal matrix."""
    orthogonal, _ = torch.linalg.qr(drawn(features.shape[1], features.shape[1], seed=9))
    return features @ orthogonal


def test_attention_distance_equals_the_value_worked_by_hand() -> None:
    # energies (9, 16) / 2 and (0, 1): q_s = (9, 16) / sqrt(337), q_t = (0, 1); |q_s - q_t|^2 = 2 - 2 * 16 / sqrt(337)
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[0.0, -1.0]]]], dtype=torch.float64)
    assert attention_distance(student, teacher).item() == pytest.approx(2 - 32 / 337**0.5, rel=1e-14)


def test_attention_distance_equals_its_formula_in_numpy_when_the_resolutions_differ() -> None:
    student, teacher = drawn(5, 3, 4, 4), drawn(5, 7, 2, 2, seed=1)
    energy = (student.numpy() ** 2).sum(axis=1).reshape(5, 2, 2, 2, 2).mean(axis=(2, 4)).reshape(5, 4)
    other = (teacher.numpy() ** 2).sum(axis=1).reshape(5, 4)
    q_s, q_t = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (energy, other))
    expected = ((q_s - q_t) ** 2).sum(axis=1).mean()
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert attention_distance(teacher, student).item() == pytest.approx(expected, rel=1e-12)


def test_attention_distance_has_the_gradient_of_its_differences() -> None:
    teacher = drawn(3, 5, 4, 4, seed=1)
    assert torch.autograd.gradcheck(lambda s: attention_distance(s, teacher), (drawn(3, 2, 4, 4).requires_grad_(),))


def test_attention_distance_ignores_scale_and_order_of_channels_and_is_2_when_nothing_is_shared() -> None:
    features = drawn(3, 5, 4, 4)
    assert attention_distance(3 * features.flip(1), features).item() == pytest.approx(0, abs=1e-12)
    left, right = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    left[..., 0] = right[..., 1] = 1
    assert attention_distance(left, right).item() == 2


def test_attention_distance_of_dead_features_is_finite_with_its_gradient() -> None:
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_distance(dead, torch.rand(2, 3, 4, 4)).backward()
    assert dead.grad is not None
    assert bool(dead.grad.isfinite().all())


def test_distance_relation_equals_the_value_worked_by_hand() -> None:
    # a 3-4-5 triangle: distances 3, 4, 5 of mean 4; an equilateral one: all 1
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    teacher = torch.eye(3, dtype=torch.float64)
    expected = (0.5 * 0.25**2 + 0 + 0.5 * 0.25**2) / 3
    assert distance_relation(student, teacher).item() == pytest.approx(expected, rel=1e-14)


def test_angle_relation_equals_the_value_worked_by_hand() -> None:
    # cosines of the 3-4-5 triangle: 0, 3/5, 4/5; of the equilateral one 1/2
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    teacher = torch.eye(3, dtype=torch.float64)
    expected = 0.5 * (0.5**2 + 0.1**2 + 0.3**2) / 3
    assert angle_relation(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_relations_equal_their_formulas_in_numpy() -> None:
    student, teacher = drawn(6, 4), 3 * drawn(6, 5, seed=1) + 2

    def distances(x: np.ndarray) -> np.ndarray:
        return np.array([np.linalg.norm(x[i] - x[j]) for i, j in itertools.permutations(range(6), 2)])

    def cosines(x: np.ndarray) -> np.ndarray:
        values = []
        for i, j, k in itertools.permutations(range(6), 3):
            a, b = x[i] - x[j], x[k] - x[j]
            values.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return np.array(values)

    d_s, d_t = distances(student.numpy()), distances(teacher.numpy())
    by_distance = huber(d_s / d_s.mean() - d_t / d_t.mean()).mean()
    by_angle = huber(cosines(student.numpy()) - cosines(teacher.numpy())).mean()
    assert distance_relation(student, teacher).item() == pytest.approx(by_distance, rel=1e-12)
    assert angle_relation(student, teacher).item() == pytest.approx(by_angle, rel=1e-12)
    together = RelationGuide(25.0, 50.0)([student], [teacher]).item()
    assert together == pytest.approx(25 * by_distance + 50 * by_angle, rel=1e-12)


@pytest.mark.parametrize("relation", [distance_relation, angle_relation])
def test_relations_have_the_gradient_of_their_differences(relation) -> None:
    teacher = drawn(5, 3, seed=1)
    assert torch.autograd.gradcheck(lambda s: relation(s, teacher), (drawn(5, 4).requires_grad_(),))


@pytest.mark.parametrize("relation", [distance_relation, angle_relation])
def test_relations_stay_when_the_students_space_is_scaled_moved_and_turned(relation) -> None:
    student, teacher = drawn(7, 4), drawn(7, 4, seed=1)
    expected = relation(student, teacher).item()
    assert expected > 1e-3
    assert relation(5 * turned(student) - 2, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert relation(0.1 * turned(teacher) + 1, teacher).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("relation", [distance_relation, angle_relation])
def test_relations_have_finite_gradients_when_rows_coincide(relation) -> None:
    student = torch.ones(5, 3, dtype=torch.float64)
    student[0] = 2  # four rows coincide
    for features in (student, torch.ones_like(student)):
        features.requires_grad_()
        value = relation(features, drawn(5, 3))
        value.backward()
        assert bool(value.isfinite())
        assert features.grad is not None
        assert float(features.grad.abs().max()) < 1e3


def test_angle_relation_is_zero_with_a_gradient_when_there_is_no_triplet() -> None:
    student = drawn(2, 3).requires_grad_()
    angle_relation(student, drawn(2, 4)).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_embeddings_are_means_over_positions() -> None:
    maps, sequence, flat = drawn(2, 3, 4, 5), drawn(2, 6, 3), drawn(2, 3)
    torch.testing.assert_close(embeddings(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(embeddings(sequence), sequence.mean(dim=1))
    assert embeddings(flat) is flat


def test_hint_guide_is_the_share_of_variance_that_is_left_worked_in_numpy() -> None:
    student, teacher = drawn(8, 3), 5 * drawn(8, 2, seed=1) + 7
    guide = HintGuide([PAIR], [student.float()], [teacher]).double()
    regressor = guide.hints[0].regressor
    predicted = student.numpy() @ regressor.weight.detach().numpy().T + regressor.bias.detach().numpy()
    variance = ((teacher.numpy() - teacher.numpy().mean(axis=0)) ** 2).mean()
    expected = ((predicted * variance**0.5 + teacher.numpy().mean(axis=0) - teacher.numpy()) ** 2).mean() / variance
    assert guide([student], [teacher]).item() == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():  # predict the mean: nothing is explained
        regressor.weight.zero_()
        regressor.bias.zero_()
    assert guide([student], [teacher]).item() == pytest.approx(1, rel=1e-6)


def test_hint_guide_does_not_depend_on_the_unit_of_the_teachers_features() -> None:
    student, teacher = drawn(8, 4, 3, 3).float(), drawn(8, 5, 3, 3, seed=1).float()
    values = []
    for scale, offset in ((1.0, 0.0), (1000.0, 50.0)):
        torch.manual_seed(0)
        guide = HintGuide([PAIR], [student], [scale * teacher + offset])
        values.append(guide([student], [scale * teacher + offset]).item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert 1 < values[0] < 3  # a regression that knows nothing, at the scale of the target


def test_hint_guide_is_zero_when_the_regressor_reproduces_the_teacher() -> None:
    features = drawn(4, 6, 3).float()
    guide = HintGuide([PAIR], [features], [features])
    hint = guide.hints[0]
    with torch.no_grad():
        hint.regressor.weight.copy_(torch.eye(3) / hint.deviation)
        hint.regressor.bias.copy_(-hint.mean / hint.deviation)
    assert guide([features], [features]).item() == pytest.approx(0, abs=1e-12)


def test_hint_guide_pools_maps_to_the_lower_resolution_and_averages_over_pairs() -> None:
    student, teacher = [drawn(6, 3, 4, 4), drawn(6, 4)], [drawn(6, 5, 8, 8, seed=1), drawn(6, 7, seed=2)]
    guide = HintGuide([PAIR, PAIR], [one.float() for one in student], teacher).double()
    pooled = teacher[0].reshape(6, 5, 4, 2, 4, 2).mean(dim=(3, 5))
    variance = pooled.var(dim=(0, 2, 3), unbiased=False).mean()
    target = (pooled - pooled.mean(dim=(0, 2, 3), keepdim=True)) / variance.sqrt()
    first = (guide.hints[0].regressor(student[0]) - target).square().mean()
    second = guide.loss(1, student[1], teacher[1])
    assert guide(student, teacher).item() == pytest.approx((first + second).item() / 2, rel=1e-6)


def test_hint_guide_has_the_gradient_of_its_differences() -> None:
    teacher = drawn(5, 2, 2, 2, seed=1)
    guide = HintGuide([PAIR], [drawn(5, 3, 4, 4).float()], [teacher]).double()
    assert torch.autograd.gradcheck(lambda s: guide([s], [teacher]), (drawn(5, 3, 4, 4).requires_grad_(),))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.rand(2, 3), torch.rand(2, 3, 4, 4), r"teacher's \[3, 4, 4\] and the student's \[3\]"),
        (torch.rand(2, 5, 3), torch.rand(2, 6, 3), "different lengths"),
        (torch.rand(2, 3), torch.ones(2, 3), "the same for all calibration rows"),
        (torch.ones(2, 3, dtype=torch.int64), torch.rand(2, 3), "choose layers that give floats"),
    ],
)
def test_hint_guide_refuses_features_that_cannot_be_compared(student: Tensor, teacher: Tensor, message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        HintGuide([PAIR], [student], [teacher])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1), (2, 4, 3)])
def test_attention_guide_refuses_what_is_no_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(TechniqueError, match=r"compares where maps \[C, H, W\] are large, but t -> s gives"):
        AttentionGuide([PAIR], [torch.rand(2, 3, 4, 4)], [torch.rand(shape)])
