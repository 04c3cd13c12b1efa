import pytest
import torch
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.techniques.augmentation import Augmentation, shifted


def test_shifted_moves_each_image_by_one_whole_offset_and_fills_with_zeros() -> None:
    images = torch.rand(64, 2, 5, 4) + 1  # no zeros of their own
    views = shifted(images, 1, torch.Generator().manual_seed(0))
    offsets = set()
    for image, view in zip(images, views, strict=True):
        padded = functional.pad(image, (1, 1, 1, 1))
        windows = {(dy, dx): padded[:, dy : dy + 5, dx : dx + 4] for dy in range(3) for dx in range(3)}
        matching = [offset for offset, window in windows.items() if torch.equal(window, view)]
        assert len(matching) == 1
        offsets.update(matching)
    assert len(offsets) == 9  # every offset occurs


def test_view_returns_the_rows_themselves_when_nothing_is_varied() -> None:
    rows = torch.rand(3, 7)
    assert Augmentation().view(rows, torch.Generator()) is rows


def test_view_repeats_itself_when_the_generator_starts_the_same() -> None:
    images = torch.rand(8, 1, 6, 6)
    augmentation = Augmentation(shift_pixels=2)
    first = augmentation.view(images, torch.Generator().manual_seed(3))
    assert torch.equal(first, augmentation.view(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, augmentation.view(images, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(("shape", "message"), [((7,), r"needs images .* \[7\]"), ((1, 2, 8), "leaves nothing to see")])
def test_check_refuses_rows_that_cannot_be_shifted(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        Augmentation(shift_pixels=2).check(shape)
