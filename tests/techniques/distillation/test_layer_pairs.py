import pytest
import torch

from tasks.contracts.errors import TechniqueError
from tasks.models.mlp import mlp
from tasks.models.resnet import resnet
from tasks.techniques.distillation.features import layer_shapes
from tasks.techniques.distillation.layer_pairs import (
    LayerPair,
    LayerShape,
    check_pairs,
    map_pairs,
    penultimate_pair,
    stage_pairs,
)


def residual(blocks: list[int], stem_stride: int = 1) -> list[LayerShape]:
    return layer_shapes(
        resnet((1, 16, 16), 3, width=4, blocks=blocks, stem_stride=stem_stride), torch.zeros(2, 1, 16, 16)
    )


def plain(hidden: list[int]) -> list[LayerShape]:
    return layer_shapes(mlp([5], 3, hidden=hidden), torch.zeros(2, 5))


def sequences(length: int, names: str) -> list[LayerShape]:
    return [LayerShape(name, (length, 6), is_linear=False) for name in names] + [
        LayerShape("head", (3,), is_linear=True)
    ]


def test_map_pairs_take_the_last_layer_of_every_shared_resolution() -> None:
    pairs = map_pairs(residual([1, 1, 1]), residual([1, 1], stem_stride=2))
    # the teacher has 16x16, 8x8, 4x4, the student 8x8 and 4x4; 1x1, after the pooling, is no map
    assert pairs == (LayerPair(teacher="stages.1", student="stages.0"), LayerPair(teacher="stages", student="stages"))


def test_stage_pairs_take_sequences_of_one_length_when_there_are_no_maps() -> None:
    assert stage_pairs(sequences(7, "abc"), sequences(7, "uv")) == (LayerPair(teacher="c", student="v"),)


def test_stage_pairs_take_the_penultimate_features_when_nothing_else_is_shared() -> None:
    assert stage_pairs(plain([8, 8]), plain([4])) == (LayerPair(teacher="6", student="4", side="input"),)
    assert stage_pairs(sequences(7, "abc"), sequences(9, "uv")) == (
        LayerPair(teacher="head", student="head", side="input"),
    )


def test_penultimate_pair_lists_the_layers_when_none_is_linear() -> None:
    with pytest.raises(TechniqueError, match=r"the student has no linear layer .*: a, b"):
        penultimate_pair(plain([4]), sequences(3, "ab")[:2])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_check_pairs_list_the_layers_when_one_is_not_there(role: str) -> None:
    pair = LayerPair.model_validate({"teacher": "stem", "student": "stem"} | {role: "stages.7"})
    with pytest.raises(
        TechniqueError, match=rf"the {role} has no layer 'stages.7' .*stages.0 \[4, 16, 16\].*head \[3\]"
    ):
        check_pairs([pair], residual([1]), residual([1]))
    check_pairs([LayerPair(teacher="stem", student="stages.0")], residual([1]), residual([1]))
