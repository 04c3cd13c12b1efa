import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.techniques.pruning.weight_masks import n_of_m_mask, sparser_masks

SCORES = {"a": torch.tensor([[5.0, 1.0], [4.0, 2.0]]), "b": torch.tensor([[3.0, 8.0, 7.0, 6.0]])}
ALL = {path: torch.ones_like(score, dtype=torch.bool) for path, score in SCORES.items()}


def test_sparser_masks_hide_the_lowest_of_each_layer_when_the_scope_is_layer() -> None:
    masks = sparser_masks(SCORES, ALL, 0.5, "layer")
    assert masks["a"].tolist() == [[True, False], [True, False]]
    assert masks["b"].tolist() == [[False, True, True, False]]


def test_sparser_masks_hide_the_lowest_of_all_when_the_scope_is_global() -> None:
    masks = sparser_masks(SCORES, ALL, 0.5, "global")
    assert masks["a"].tolist() == [[True, False], [False, False]]
    assert masks["b"].tolist() == [[False, True, True, True]]


def test_sparser_masks_never_bring_a_weight_back_and_count_what_is_hidden() -> None:
    masks = ALL | {"b": torch.tensor([[True, False, True, True]])}  # the best weight of all
    sparser = sparser_masks(SCORES, masks, 0.25, "global")
    assert sparser["b"].tolist() == [[True, False, True, True]]
    assert sparser["a"].tolist() == [[True, False], [True, True]]
    same = sparser_masks(SCORES, masks, 0.0, "global")
    assert all(torch.equal(same[path], mask) for path, mask in masks.items())


def test_sparser_masks_hide_exactly_the_share_when_scores_are_equal() -> None:
    masks = sparser_masks({"a": torch.zeros(10)}, {"a": torch.ones(10, dtype=torch.bool)}, 0.3, "layer")
    assert masks["a"].tolist() == [False] * 3 + [True] * 7


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["layer", "global"]))
def test_sparser_masks_have_the_share_and_are_nested(seed: int, first: float, second: float, scope) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {"a": torch.rand(7, 3, generator=generator), "b": torch.rand(2, 5, 3, generator=generator)}
    masks = {path: torch.ones_like(score, dtype=torch.bool) for path, score in scores.items()}
    low, high = sorted((first, second))
    looser = sparser_masks(scores, masks, low, scope)
    others = {path: torch.rand(score.shape, generator=generator) for path, score in scores.items()}
    tighter = sparser_masks(others, looser, high, scope)
    assert all(not bool((tighter[path] & ~looser[path]).any()) for path in scores)
    hidden = {path: int((~mask).sum()) for path, mask in tighter.items()}
    if scope == "layer":
        assert hidden == {path: round(high * score.numel()) for path, score in scores.items()}
    else:
        assert sum(hidden.values()) == round(high * 51)


def test_n_of_m_mask_keeps_the_best_of_each_group_of_a_row() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0, 3.0, 9.0, 7.0, 8.0, 6.0]])
    mask = n_of_m_mask(scores, torch.ones_like(scores, dtype=torch.bool), n=2, m=4)
    assert mask.int().tolist() == [[0, 1, 0, 1, 1, 0, 1, 0]]


def test_n_of_m_mask_groups_input_channels_at_one_position_of_the_kernel() -> None:
    # one output, four inputs, a kernel of 1x2: at the left position inputs 0 and 3 win, at the right 1 and 2
    scores = torch.tensor([[[[9.0, 1.0]], [[2.0, 8.0]], [[3.0, 7.0]], [[6.0, 4.0]]]])
    mask = n_of_m_mask(scores, torch.ones_like(scores, dtype=torch.bool), n=2, m=4)
    assert mask[0, :, 0, 0].int().tolist() == [1, 0, 0, 1]
    assert mask[0, :, 0, 1].int().tolist() == [0, 1, 1, 0]


def test_n_of_m_mask_takes_the_first_when_scores_are_equal_and_respects_what_is_hidden() -> None:
    scores = torch.ones(1, 4)
    assert n_of_m_mask(scores, torch.ones(1, 4, dtype=torch.bool), 2, 4).int().tolist() == [[1, 1, 0, 0]]
    hidden = torch.tensor([[False, False, False, True]])
    assert n_of_m_mask(scores, hidden, 2, 4).int().tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_n_of_m_mask_equals_a_slow_loop_over_channels_last_rows(n: int, m: int) -> None:
    scores = torch.rand(3, 8, 3, 2, generator=torch.Generator().manual_seed(0))
    mask = n_of_m_mask(scores, torch.ones_like(scores, dtype=torch.bool), n, m)
    rows = scores.permute(0, 2, 3, 1).reshape(-1).numpy()  # [O, kernel, I], as channels-last kernels read it
    expected = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), m):
        expected[start + np.argsort(-rows[start : start + m])[:n]] = True
    np.testing.assert_array_equal(mask.permute(0, 2, 3, 1).reshape(-1).numpy(), expected)
