import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.contracts.errors import ModelError, TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.models.attention import SelfAttention
from tasks.models.masking import masks_of, set_masks, with_masks
from tasks.models.vit import vit
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.heads import head_groups, keep_heads, narrow_heads
from tasks.techniques.pruning.prune_heads import PruneHeads
from tasks.techniques.pruning.scoring import Scorer
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext

MakeContext = Callable[..., StageContext]
VIT = Architecture(
    factory="tasks.models.vit:vit",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 12, "depth": 2, "heads": 3},
)
SHORT = Schedule(epochs=2, batch_size=16, learning_rate=1e-3, checkpoint_every=1)


def without_heads(attention: SelfAttention, heads: list[int]) -> None:
    """Silence heads: what they say is not read."""
    for head in heads:
        attention.out.weight.data[:, head * attention.head_width : (head + 1) * attention.head_width] = 0


@pytest.mark.parametrize(
    "kept", [{"blocks.0.attention": [1]}, {"blocks.0.attention": [0, 2], "blocks.1.attention": [2]}]
)
def test_keep_heads_gives_the_outputs_of_the_masked_network(kept: dict[str, list[int]]) -> None:
    torch.manual_seed(0)
    network, x = vit((1, 8, 8), 3, width=12, depth=2, heads=3).double().eval(), torch.randn(4, 1, 8, 8).double()
    masked = copy.deepcopy(network)
    for path, heads in kept.items():
        without_heads(masked.get_submodule(path), sorted({0, 1, 2} - set(heads)))
    pruned = keep_heads(copy.deepcopy(network), kept)
    assert pruned.blocks[0].attention.num_heads == len(kept["blocks.0.attention"])
    torch.testing.assert_close(pruned(x), masked(x), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(pruned(x), network(x))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"blocks.7": [0]}, "no self-attention 'blocks.7'"),
        ({"blocks.0.attention": [0, 3]}, "heads 0 to 2"),
        ({"blocks.0.attention": []}, "in rising order"),
        ({"blocks.0.attention": [1, 0]}, "in rising order"),
        ({"blocks.0.attention": ["0"]}, "malformed"),
        ([], "malformed"),
    ],
)
def test_keep_heads_names_what_is_wrong_when_the_recipe_does_not_fit(keep: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        keep_heads(vit((1, 8, 8), 3, width=12, depth=1, heads=3), keep)


def test_head_groups_keep_what_is_ignored_or_no_target_and_name_globs_that_match_nothing() -> None:
    network = vit((1, 8, 8), 3, width=12, depth=3, heads=3)
    groups = head_groups(network, targets=("blocks.[01].*",), ignore=("blocks.0.*",))
    assert [group.reason for group in groups] == [
        "blocks.0.attention is ignored",
        None,
        "blocks.2.attention is no target",
    ]
    with pytest.raises(TechniqueError, match=r"ignore='stages.*' matches no attention; they are blocks.0.attention"):
        head_groups(network, ignore=("stages.*",))
    with pytest.raises(TechniqueError, match=r"Linear has no tasks.models.attention.SelfAttention"):
        head_groups(nn.Linear(2, 2))


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_scores_of_a_head_that_says_nothing_are_zero_and_taylor_is_by_a_gate(
    criterion: str, draw_images: Callable[[int, int], Arrays]
) -> None:
    rows = draw_images(6, 1)
    torch.manual_seed(0)
    network = vit((1, 8, 8), 3, width=12, depth=1, heads=3).eval()
    without_heads(network.blocks[0].attention, [1])
    scorer = Scorer(criterion=criterion, rows=rows, loss=label_loss("classification"), num_rows=8, seed=0)
    (scores,) = scorer.scores(network, head_groups(network))
    assert scores[1] == 0
    assert min(scores[0], scores[2]) > 0
    if criterion == "taylor":
        np.testing.assert_allclose(scores, by_head_gates(network, rows), rtol=1e-3)


def by_head_gates(network: nn.Module, rows: Arrays) -> np.ndarray:
    """Differentiate by a factor on what each head hands to the output layer (Michel et al. 2019)."""
    attention = network.blocks[0].attention
    squares = torch.zeros(attention.num_heads)
    for row, label in zip(torch.from_numpy(rows.x), torch.from_numpy(rows.y), strict=True):
        gate = torch.ones(attention.num_heads, requires_grad=True)

        def scale(_: nn.Module, given: tuple[Tensor], gate: Tensor = gate) -> Tensor:
            return given[0] * gate.repeat_interleave(attention.head_width)

        handle = attention.out.register_forward_pre_hook(scale)
        loss = nn.functional.cross_entropy(network(row[None]), label[None])
        squares += torch.autograd.grad(loss, gate)[0] ** 2 / len(rows.y)
        handle.remove()
    return squares.numpy()


def test_apply_reports_what_was_worked_by_hand(make_context: MakeContext) -> None:
    incoming = Network.create(VIT, seed=0)
    records: list[EpochRecord] = []
    spec = PruneHeads(ratio=0.5, scope="local", criterion="l2", rounds=2, fine_tune=SHORT)
    applied = spec.apply(incoming.to_bytes(), make_context(report=records.append))
    # the wider of 1 and 2 of 3 heads stays; a head is 4 wide: 3 rows of 12 and a bias each, and 4 columns of 12
    saved = 2 * (3 * 4 * (12 + 1) + 4 * 12)
    assert applied.details["parameters_before"] - applied.details["parameters_after"] == saved
    # 4 patches: q, k, v and out are 4 x 12 x 4 each, and two products of 4 x 4 x 4
    fewer = 2 * (4 * 4 * 12 * 4 + 2 * 4 * 4 * 4)
    assert applied.details["multiply_adds_before"] - applied.details["multiply_adds_after"] == fewer
    assert applied.details["share_of_heads_removed"] == pytest.approx(1 / 3)
    assert applied.details["heads"] == "blocks.0.attention 3->2, blocks.1.attention 3->2"
    assert len(records) == spec.planned_epochs == 4
    assert Network.from_bytes(applied.model).module.blocks[1].attention.num_heads == 2


def test_apply_leaves_the_least_number_of_heads_and_refuses_when_none_can_go(make_context: MakeContext) -> None:
    incoming = Network.create(VIT, seed=0).to_bytes()
    spec = PruneHeads(ratio=0.9, rounds=1, fine_tune=SHORT)
    assert spec.apply(incoming, make_context()).details["heads"] == "blocks.0.attention 3->1, blocks.1.attention 3->1"
    with pytest.raises(TechniqueError, match=r"ratio=0.9 with min_heads=3 removes no head .* or lower min_heads"):
        PruneHeads(ratio=0.9, min_heads=3, fine_tune=SHORT).apply(incoming, make_context())


def test_narrow_heads_takes_the_masks_along() -> None:
    network = with_masks(Network.create(VIT, seed=0), ["blocks.0.attention.query", "blocks.0.attention.out"])
    draw = torch.Generator().manual_seed(0)
    masks = {path: torch.rand(mask.shape, generator=draw) < 0.5 for path, mask in masks_of(network.module).items()}
    set_masks(network.module, masks)
    groups = head_groups(network.module)
    pruned = narrow_heads(network, groups, {groups[0].key: np.array([0, 2])})
    found = masks_of(pruned.module)
    features = [0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.equal(found["blocks.0.attention.query"], masks["blocks.0.attention.query"][features])
    assert torch.equal(found["blocks.0.attention.out"], masks["blocks.0.attention.out"][:, features])
    reloaded = Network.from_bytes(pruned.to_bytes())
    assert reloaded.to_bytes() == pruned.to_bytes()
    hidden = ~found["blocks.0.attention.query"]
    assert (reloaded.module.blocks[0].attention.query.weight[hidden] == 0).all()
