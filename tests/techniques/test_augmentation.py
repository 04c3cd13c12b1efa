from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from tasks.contracts.data import SpecialTokens
from tasks.contracts.errors import TechniqueError
from tasks.techniques.augmentation import Augmentation, Mix, cut_out, mirrored, shifted, without_tokens

EVERYTHING = Augmentation(shift_pixels=1, flip_horizontal=True, cutout_pixels=3)


def drawn(augmentation: Augmentation, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    views = augmentation.draw(len(images), images.shape[1:], torch.Generator().manual_seed(seed))
    return augmentation.view(images, views)


def test_view_moves_each_image_by_one_whole_offset_and_fills_with_zeros() -> None:
    images = torch.rand(64, 2, 5, 4) + 1  # no zeros of their own
    views = drawn(Augmentation(shift_pixels=1), images)
    offsets = set()
    for image, view in zip(images, views, strict=True):
        padded = functional.pad(image, (1, 1, 1, 1))
        windows = {(dy, dx): padded[:, dy : dy + 5, dx : dx + 4] for dy in range(3) for dx in range(3)}
        matching = [offset for offset, window in windows.items() if torch.equal(window, view)]
        assert len(matching) == 1
        offsets.update(matching)
    assert len(offsets) == 9  # every offset occurs


def test_shifted_equals_the_case_worked_by_hand() -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    down_right = shifted(image, 1, torch.tensor([0]), torch.tensor([0]))
    assert down_right[0, 0].tolist() == [[0, 0], [0, 1]]


def test_mirrored_swaps_columns_of_the_chosen_images_only() -> None:
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert mirrored(images, torch.tensor([True, False])).flatten().tolist() == [1, 0, 3, 2, 4, 5, 6, 7]


def test_cut_out_clears_the_square_that_lies_inside_the_image() -> None:
    cleared = cut_out(
        torch.ones(2, 1, 3, 4), 2, torch.tensor([True, False]), torch.tensor([-1, 0]), torch.tensor([2, 0])
    )
    assert cleared[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert bool((cleared[1] == 1).all())


def test_half_of_the_images_are_mirrored_and_half_are_cut() -> None:
    views = EVERYTHING.draw(4000, (1, 8, 8), torch.Generator().manual_seed(1))
    for chosen in (views.mirrored, views.cut):
        assert chosen is not None
        assert stats.binomtest(int(chosen.sum()), 4000, 0.5).pvalue > 0.001
    assert views.cut_y is not None
    assert set(views.cut_y.tolist()) == set(range(-1, 7))


def test_view_returns_the_rows_themselves_when_nothing_is_varied() -> None:
    rows = torch.rand(3, 7)
    assert drawn(Augmentation(), rows) is rows


def test_view_repeats_itself_when_the_generator_starts_the_same() -> None:
    images = torch.rand(8, 1, 6, 6)
    first = drawn(EVERYTHING, images, seed=3)
    assert torch.equal(first, drawn(EVERYTHING, images, seed=3))
    assert not torch.equal(first, drawn(EVERYTHING, images, seed=4))


def test_views_at_places_show_the_same_as_the_whole() -> None:
    images = torch.rand(8, 1, 6, 6)
    views = EVERYTHING.draw(8, (1, 6, 6), torch.Generator().manual_seed(0))
    places = torch.tensor([5, 2, 2])
    assert torch.equal(EVERYTHING.view(images[places], views[places]), EVERYTHING.view(images, views)[places])


def test_blend_equals_the_case_worked_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert Mix(torch.tensor([1, 0]), 0.75).blend(rows).tolist() == [[0.75, 1.0], [0.25, 3.0]]


def test_shares_of_mixup_follow_the_folded_beta_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mixes = [Augmentation(mixup=0.7).mix(3, generator) for _ in range(3000)]
    shares = np.array([mix.share for mix in mixes if mix is not None])

    def folded(share: np.ndarray) -> np.ndarray:
        beta = stats.beta(0.7, 0.7)
        return np.asarray(beta.cdf(share) - beta.cdf(1 - share))

    assert shares.min() >= 0.5
    assert stats.kstest(shares, folded).pvalue > 0.001


@pytest.mark.parametrize(
    ("fields", "identity", "repeats"),
    [
        ({}, True, True),
        ({"num_views": 4}, True, True),
        ({"shift_pixels": 1}, False, False),
        ({"shift_pixels": 1, "num_views": 4}, False, True),
        ({"token_dropout": 0.1, "num_views": 4}, False, True),
        ({"mixup": 1.0, "num_views": 4}, False, False),
    ],
)
def test_views_repeat_when_they_are_drawn_once_and_not_blended(
    fields: dict[str, Any], identity: bool, repeats: bool
) -> None:
    augmentation = Augmentation.model_validate(fields)
    assert (augmentation.is_identity, augmentation.views_repeat) == (identity, repeats)


@pytest.mark.parametrize("fields", [{"shift_pixels": 2}, {"flip_horizontal": True}, {"cutout_pixels": 2}])
def test_check_refuses_rows_that_are_no_images(fields: dict[str, Any]) -> None:
    with pytest.raises(TechniqueError, match=r"needs images .* \[7\]"):
        Augmentation.model_validate(fields).check((7,))


@pytest.mark.parametrize("fields", [{"shift_pixels": 2}, {"cutout_pixels": 2}])
def test_check_refuses_what_hides_the_whole_image(fields: dict[str, Any]) -> None:
    with pytest.raises(TechniqueError, match="leaves nothing to see"):
        Augmentation.model_validate(fields).check((1, 2, 8))


def test_check_refuses_to_blend_token_ids() -> None:
    with pytest.raises(TechniqueError, match=r"mixup=0.2 blends rows of float32, but these are int64"):
        Augmentation(mixup=0.2).check((7,), "int64")


def test_without_tokens_equals_the_case_worked_by_hand() -> None:
    pad, unknown, begin = 1, 3, 0
    rows = torch.tensor([[begin, 7, 8, 9, pad], [begin, 7, unknown, 9, pad], [begin, 7, pad, pad, pad]])
    hidden = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0]]).bool()

    shown = without_tokens(rows, hidden, SpecialTokens(pad=pad, others=(begin, unknown)))

    assert shown.tolist() == [
        [begin, pad, 8, pad, pad],
        [begin, 7, unknown, pad, pad],  # the unknown piece stays, as all special tokens do
        [begin, 7, pad, pad, pad],  # or the text would be empty
    ]


def test_token_dropout_hides_each_token_with_its_probability() -> None:
    rows = torch.full((500, 20), 5)
    augmentation = Augmentation(token_dropout=0.15)
    views = augmentation.draw(500, (20,), torch.Generator().manual_seed(0))

    shown = augmentation.view(rows, views, SpecialTokens(pad=0))

    hidden = shown.eq(0)
    assert stats.binomtest(int(hidden.sum()), hidden.numel(), 0.15).pvalue > 0.001
    for counts in (hidden.sum(0), hidden.sum(1)):  # neither places nor rows are preferred
        size = hidden.numel() // len(counts)
        expected = size * 0.15 * 0.85
        assert stats.chi2.sf(float(((counts - size * 0.15) ** 2 / expected).sum()), len(counts)) > 0.001
    assert bool((rows == 5).all())


def test_token_views_at_places_show_the_same_as_the_whole() -> None:
    augmentation, special = Augmentation(token_dropout=0.5, num_views=3), SpecialTokens(pad=0)
    rows = torch.arange(1, 25).reshape(4, 6)
    views = augmentation.fixed_views(4, (6,))
    assert views is not None
    every = augmentation.view(rows.repeat_interleave(3, dim=0), views, special)
    places = torch.tensor([7, 2, 11])
    assert torch.equal(augmentation.view(rows[places // 3], views[places], special), every[places])


def test_check_refuses_to_hide_tokens_of_what_is_no_text() -> None:
    with pytest.raises(TechniqueError, match=r"token_dropout=0.1 hides tokens of texts, .*\[3, 8, 8\]"):
        Augmentation(token_dropout=0.1).check((3, 8, 8))
    Augmentation(token_dropout=0.1).check((7,), "int64", SpecialTokens(pad=0))
