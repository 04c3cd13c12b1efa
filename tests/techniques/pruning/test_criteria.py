import pytest
import torch
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.criteria import GroupTensors, bn_scale, group_scores, group_tensors, l1, l2
from tasks.techniques.pruning.graph import channel_groups

TENSORS = GroupTensors(
    weights=(torch.tensor([[3.0, -4.0], [1.0, 1.0]]), torch.tensor([[5.0], [-1.0]])),
    norm_scales=(torch.tensor([[0.5], [-2.0]]), torch.tensor([[1.5], [2.0]])),
)


def test_criteria_give_the_scores_worked_by_hand() -> None:
    assert l1(TENSORS).tolist() == [4, 1]  # (3 + 4 + 5) / 3
    assert l2(TENSORS).tolist() == pytest.approx([(50 / 3) ** 0.5, 1])  # sqrt((9 + 16 + 25) / 3)
    assert bn_scale(TENSORS).tolist() == [1, 2]


def test_group_tensors_gather_producers_and_scales_and_no_readers() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(8, 3)
    )
    network[0].weight.data = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1)
    network[1].weight.data = torch.tensor([5.0, 7.0])
    network[2].weight.data = torch.tensor([11.0, 13.0]).reshape(2, 1, 1, 1)
    (group,) = [group for group in channel_groups(network, torch.zeros(2, 1, 2, 2)) if group.reason is None]
    tensors = group_tensors(network, group)
    assert [weight.tolist() for weight in tensors.weights] == [[[2], [3]], [[11], [13]]]
    assert [scale.tolist() for scale in tensors.norm_scales] == [[[5], [7]]]
    assert group_scores(network, group, "l1").tolist() == [6.5, 8]


def test_group_scores_name_the_layer_and_the_remedy_when_there_is_no_scale_to_judge_by() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 2))
    (group,) = [group for group in channel_groups(network, torch.zeros(2, 4)) if group.reason is None]
    with pytest.raises(TechniqueError, match="affine batch norm after '0', which has none; set criterion to 'l2'"):
        group_scores(network, group, "bn_scale")
