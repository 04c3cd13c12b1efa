import numpy as np
import pytest
import torch
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.models.masking import mask_weights, set_masks
from tasks.models.resnet import resnet
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.gradients import accumulated_gradients
from tasks.techniques.technique import Arrays

SQUARED = label_loss("regression")
ENTROPY = label_loss("classification")


def line(weight: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight), 1, bias=False)
    layer.weight.data = torch.tensor([weight], dtype=torch.float32)
    return layer


TWO_ROWS = Arrays(np.array([[1, 2], [3, -1]], dtype=np.float32), np.array([1, 0], dtype=np.float32))


def test_accumulated_gradients_are_those_worked_by_hand() -> None:
    # outputs of w = (1, 1): 3 and 2, errors 2 and 2; d(e^2) = 2 e x: (4, 8) and (12, -4)
    found = accumulated_gradients(line([1, 1]), TWO_ROWS, SQUARED)["weight"]
    assert found.mean.tolist() == [[8, 2]]
    assert found.mean_square.tolist() == [[(16 + 144) / 2, (64 + 16) / 2]]
    both = accumulated_gradients(line([1, 1]), TWO_ROWS, SQUARED, batch_size=2)["weight"]
    assert both.mean.tolist() == [[8, 2]]
    assert both.mean_square.tolist() == [[64, 4]]


def test_accumulated_gradients_weigh_a_smaller_last_batch_by_its_rows() -> None:
    rows = Arrays(np.array([[1], [1], [4]], dtype=np.float32), np.zeros(3, dtype=np.float32))
    found = accumulated_gradients(line([1]), rows, SQUARED, batch_size=2)["weight"]
    assert found.mean.item() == pytest.approx((2 + 2 + 32) / 3)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_accumulated_gradients_agree_with_a_plain_loop(batch_size: int, images: Arrays) -> None:
    torch.manual_seed(0)
    network = resnet((1, 8, 8), 3, width=4, blocks=[1])
    found = accumulated_gradients(network, images, ENTROPY, batch_size=batch_size)
    network.eval()
    network.zero_grad()
    nn.functional.cross_entropy(network(torch.from_numpy(images.x)), torch.from_numpy(images.y)).backward()
    assert found.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name].mean, parameter.grad.double(), rtol=1e-3, atol=1e-6)


def test_mean_square_is_of_single_rows_when_batches_are(images: Arrays) -> None:
    torch.manual_seed(0)
    network = resnet((1, 8, 8), 3, width=2, blocks=[1]).eval()
    found = accumulated_gradients(network, images, ENTROPY)
    squares = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for row, label in zip(torch.from_numpy(images.x), torch.from_numpy(images.y), strict=True):
        network.zero_grad()
        nn.functional.cross_entropy(network(row[None]), label[None]).backward()
        for name, parameter in network.named_parameters():
            squares[name] += parameter.grad**2 / len(images.y)
    for name, square in squares.items():
        torch.testing.assert_close(found[name].mean_square, square.double(), rtol=1e-3, atol=1e-9)


def test_accumulated_gradients_leave_the_network_and_the_random_state_as_they_were(images: Arrays) -> None:
    network = resnet((1, 8, 8), 3, width=2, blocks=[1], dropout=0.5).train()
    network.head.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    first = accumulated_gradients(network, images, ENTROPY, num_rows=7, seed=3)
    assert network.training
    assert not network.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert float(first["head.weight"].mean.abs().sum()) > 0  # frozen weights have a gradient too
    again = accumulated_gradients(network, images, ENTROPY, num_rows=7, seed=3)
    assert all(torch.equal(first[name].mean_square, again[name].mean_square) for name in first)
    other = accumulated_gradients(network, images, ENTROPY, num_rows=7, seed=4)
    assert not torch.equal(first["head.weight"].mean, other["head.weight"].mean)


def test_accumulated_gradients_cover_the_weights_under_a_mask() -> None:
    masked = mask_weights(nn.Sequential(line([1, 1])), layers=["0"])
    set_masks(masked, {"0": torch.tensor([[True, False]])})
    found = accumulated_gradients(masked, TWO_ROWS, SQUARED)
    # outputs 1 and 3, errors 0 and 3; 2 e x: (0, 0) and (18, -6)
    assert found["0.weight"].mean.tolist() == [[9, -3]]


class Aside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = line([1, 1]), line([1, 1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_accumulated_gradients_are_zero_where_the_loss_does_not_depend() -> None:
    assert accumulated_gradients(Aside(), TWO_ROWS, SQUARED)["unused.weight"].mean_square.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("rows", "weight", "message"),
    [
        (Arrays(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.float32)), [1.0, 1.0], "at least one"),
        (TWO_ROWS, [float("inf"), 1.0], "loss of rows .* is inf"),
    ],
)
def test_accumulated_gradients_refuse_what_has_none(rows: Arrays, weight: list[float], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        accumulated_gradients(line(weight), rows, SQUARED)
