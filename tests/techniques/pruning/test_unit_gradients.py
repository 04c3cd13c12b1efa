from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.coupling import Group
from tasks.techniques.pruning.criteria import UnitGradients, hessian, taylor
from tasks.techniques.pruning.graph import channel_groups
from tasks.techniques.pruning.scoring import Scorer
from tasks.techniques.technique import Arrays


def scorer(criterion: str, rows: Arrays, task: str = "classification", **members: int) -> Scorer:
    return Scorer(criterion=criterion, rows=rows, loss=label_loss(task), **({"num_rows": 64, "seed": 0} | members))


def prunable(network: nn.Module, x: Tensor) -> list[Group]:
    return [group for group in channel_groups(network, x) if group.reason is None]


def test_criteria_give_the_scores_worked_by_hand() -> None:
    gradients = UnitGradients(slopes=torch.tensor([[1.0, -2.0], [3.0, 0.0]]), curvatures=torch.tensor([4.0, 5.0]))
    assert taylor(gradients).tolist() == [5, 2]
    assert hessian(gradients).tolist() == [2, 2.5]


def test_scores_of_two_linear_units_are_those_worked_by_hand() -> None:
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    network[0].weight.data = torch.tensor([[1.0], [2.0]])
    network[1].weight.data = torch.tensor([[3.0, -1.0]])
    rows = Arrays(np.array([[1], [2]], dtype=np.float32), np.array([0, 3], dtype=np.float32))
    # hidden (1, 2) and (2, 4); outputs 1 and 2, errors 1 and -1; gradient by the second weight 2 e h: (2, 4), (-4, -8)
    groups = prunable(network, torch.zeros(2, 1))
    (by_taylor,) = scorer("taylor", rows, "regression").scores(network, groups)
    assert by_taylor.tolist() == [((3 * 2) ** 2 + (3 * -4) ** 2) / 2, (4**2 + 8**2) / 2]
    (by_hessian,) = scorer("hessian", rows, "regression").scores(network, groups)
    assert by_hessian.tolist() == [9 * (4 + 16) / 2 / 2, 1 * (16 + 64) / 2 / 2]


@pytest.mark.parametrize(
    "name", ["plain", "depthwise", "projected", "dense", "flattening", "grouped", "vit", "excited"]
)
def test_taylor_is_the_squared_gradient_by_a_gate_on_what_reads_the_unit(
    name: str, make_network: Callable[[str], nn.Module], draw_images: Callable[[int, int], Arrays]
) -> None:
    network, rows = make_network(name), draw_images(6, 1)
    rows = Arrays(rows.x.astype(np.float64), rows.y)
    groups = prunable(network, torch.from_numpy(rows.x[:2]))
    assert groups
    for group, found in zip(groups, scorer("taylor", rows).scores(network, groups), strict=True):
        expected = by_gates(network, group, rows)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-14)
        assert expected.max() > 0


def by_gates(network: nn.Module, group: Group, rows: Arrays) -> np.ndarray:
    """Differentiate by a factor on each unit, at the inputs of all layers that read it and do not hand it on."""
    producers = {member.path for member in group.producers}
    squares = torch.zeros(group.num_units, dtype=torch.float64)
    for row, label in zip(torch.from_numpy(rows.x), torch.from_numpy(rows.y), strict=True):
        gate = torch.ones(group.num_units, dtype=torch.float64, requires_grad=True)
        handles = []
        for member in group.members:
            layer = network.get_submodule(member.path)
            if member.axis != "in" or (member.path in producers and getattr(layer, "groups", 1) > 1):
                continue
            size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            unit = torch.full((size,), -1)
            unit[torch.from_numpy(member.channels)] = torch.arange(group.num_units)[:, None]

            def scale(layer: nn.Module, given: tuple[Tensor], gate: Tensor = gate, unit: Tensor = unit) -> Tensor:
                factors = torch.where(unit >= 0, gate[unit.clamp(min=0)], 1.0)
                if isinstance(layer, nn.Linear):
                    return given[0] * factors
                return given[0] * factors.reshape(1, -1, *[1] * (given[0].ndim - 2))

            handles.append(layer.register_forward_pre_hook(scale))
        loss = nn.functional.cross_entropy(network(row[None]), label[None])
        squares += torch.autograd.grad(loss, gate)[0] ** 2 / len(rows.y)
        for handle in handles:
            handle.remove()
    return squares.numpy()


def test_hessian_agrees_with_a_plain_loop_over_the_columns_that_read_a_unit(
    make_network: Callable[[str], nn.Module], draw_images: Callable[[int, int], Arrays]
) -> None:
    network, rows = make_network("plain"), draw_images(5, 1)
    rows = Arrays(rows.x.astype(np.float64), rows.y)
    groups = prunable(network, torch.from_numpy(rows.x[:2]))
    fishers = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for row, label in zip(torch.from_numpy(rows.x), torch.from_numpy(rows.y), strict=True):
        network.zero_grad()
        nn.functional.cross_entropy(network(row[None]), label[None]).backward()
        for name, parameter in network.named_parameters():
            fishers[name] += parameter.grad**2 / len(rows.y)
    scores = scorer("hessian", rows).scores(network, groups)
    found = {group.producers[0].path: each for group, each in zip(groups, scores, strict=True)}
    for path, reader in (("0", "3"), ("3", "8")):
        weight = network.get_submodule(reader).weight.detach()
        saliency = (fishers[f"{reader}.weight"] * weight**2 / 2).transpose(0, 1).flatten(1).sum(1)
        np.testing.assert_allclose(found[path], saliency.numpy(), rtol=1e-9)


def test_random_scores_differ_by_seed_and_group_and_repeat_otherwise(make_network: Callable[[str], nn.Module]) -> None:
    network = make_network("plain").float()
    rows = Arrays(np.zeros((2, 1, 8, 8), dtype=np.float32), np.zeros(2, dtype=np.int64))
    groups = prunable(network, torch.from_numpy(rows.x))
    first, again = (scorer("random", rows).scores(network, groups) for _ in range(2))
    other = scorer("random", rows, seed=1).scores(network, groups)
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert not (first[0] == other[0]).any()
    assert first[0][0] != first[1][0]
