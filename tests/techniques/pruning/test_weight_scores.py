from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tasks.models.masking import mask_weights, masks_of
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.weight_scores import Evidence, WeightCriterion, weight_scores
from tasks.techniques.technique import Arrays


def regression(num_rows: int = 2) -> Evidence:
    """Return two rows whose squared errors under w = (3, -1) have the gradients (6, 0) and (0, -8)."""
    rows = Arrays(np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros(2))
    return Evidence(rows, label_loss("regression"), num_rows=num_rows, seed=0)


def product() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 1, bias=False).double())
    module.get_parameter("0.weight").data = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    return module


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("magnitude", [3.0, 1.0]),
        ("gradient", [3.0, 4.0]),  # of the mean loss: (6 + 0) / 2 and (0 - 8) / 2
        ("taylor", [9.0, 4.0]),
        ("hessian", [81.0, 16.0]),  # mean squares (36 + 0) / 2 and (0 + 64) / 2, times w^2 / 2
    ],
)
def test_weight_scores_equal_the_criterion_worked_by_hand(criterion: WeightCriterion, expected: list[float]) -> None:
    assert weight_scores(product(), ["0"], criterion, regression())["0"].tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "taylor", "hessian", "random"])
def test_weight_scores_are_the_same_again_and_leave_the_network_alone(criterion: WeightCriterion) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1)).double().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    first = weight_scores(module, ["0", "2"], criterion, regression())
    second = weight_scores(module, ["0", "2"], criterion, regression())
    assert first.keys() == {"0", "2"}
    assert all(torch.equal(first[path], second[path]) for path in first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)


def test_weight_scores_judge_the_masked_network_when_there_are_masks() -> None:
    module = mask_weights(product(), layers=["0"])
    masks_of(module)["0"][0, 0] = False
    # without w0 the first row has no error left
    assert weight_scores(module, ["0"], "gradient", regression())["0"].tolist() == [[0.0, 4.0]]
    assert weight_scores(module, ["0"], "magnitude", regression())["0"].tolist() == [[0.0, 1.0]]


def test_taylor_tends_to_the_true_change_of_the_loss_when_the_weight_is_small(
    draw_images: Callable[[int, int], Arrays],
) -> None:
    torch.manual_seed(0)
    images = draw_images(12, 0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        module.get_parameter("1.weight")[1, 7] = 1e-4
    evidence = Evidence(Arrays(images.x.astype(np.float64), images.y), label_loss("classification"), 12, 0)
    score = weight_scores(module, ["1"], "taylor", evidence)["1"][1, 7].item()

    def loss() -> float:
        outputs = module(torch.from_numpy(images.x).double())
        return nn.functional.cross_entropy(outputs, torch.from_numpy(images.y)).item()

    before = loss()
    with torch.no_grad():
        module.get_parameter("1.weight")[1, 7] = 0
    assert score == pytest.approx(abs(loss() - before), rel=1e-3)


def test_random_scores_follow_the_seed() -> None:
    module = nn.Linear(50, 50)
    rows = Arrays(np.zeros((2, 50)), np.zeros(2))
    drawn = [
        weight_scores(module, [""], "random", Evidence(rows, label_loss("regression"), 1, seed))[""] for seed in (0, 1)
    ]
    assert not torch.equal(drawn[0], drawn[1])
    assert drawn[0].mean().item() == pytest.approx(0.5, abs=0.02)
