"""Random views of a batch of rows. Dimension legend: B rows, C channels, H height, W width."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.value import Value

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Augmentation(Value):
    """How each training row is varied every time it is seen. The default varies nothing."""

    shift_pixels: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Images only: each is moved by up to this many pixels per axis; the border is filled with 0.",
    )
    flip_horizontal: bool = Field(default=False, description="Images only: each is mirrored left to right, or not.")
    cutout_pixels: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Images only: side of a square, centred anywhere, that is set to 0 in every other image.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Float inputs only: a > 0 blends each row with another, with a share drawn from Beta(a, a).",
    )

    @property
    def is_identity(self) -> bool:
        """Whether every row is always seen as it is."""
        return self == Augmentation()

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Check that rows of `input_shape` can be varied this way.

        Raises:
            TechniqueError: the rows are not images [C, H, W], or a shift or a cutout would hide them.
        """
        for name, pixels in (("shift_pixels", self.shift_pixels), ("cutout_pixels", self.cutout_pixels)):
            _require_images(name, pixels, input_shape)
            if pixels and pixels >= min(input_shape[1:]):
                raise TechniqueError(
                    f"augmentation.{name}={pixels} leaves nothing to see of images of "
                    f"{input_shape[1]}x{input_shape[2]} pixels; set it below {min(input_shape[1:])}"
                )
        _require_images("flip_horizontal", self.flip_horizontal, input_shape)

    def view(self, inputs: "Tensor", generator: "Generator") -> "Tensor":
        """Return a random view of each row, drawn from `generator` (a CPU generator on every device)."""
        if self.shift_pixels:
            inputs = shifted(inputs, self.shift_pixels, generator)
        if self.flip_horizontal:
            inputs = flipped(inputs, generator)
        if self.cutout_pixels:
            inputs = cut_out(inputs, self.cutout_pixels, generator)
        return inputs

    def mix(self, num_rows: int, generator: "Generator") -> "Mix | None":
        """Draw which rows of a batch are blended; None where the augmentation does not blend."""
        if not self.mixup:
            return None
        import torch

        # a Beta(a, a) variate from the loop's own generator: X / (X + Y) of two Gamma(a) ones
        gammas_2 = torch._standard_gamma(torch.full((2,), self.mixup, dtype=torch.float64), generator=generator)
        share = float(gammas_2[0] / gammas_2.sum())
        return Mix(partners=torch.randperm(num_rows, generator=generator), share=max(share, 1 - share))


@dataclass(frozen=True)
class Mix:
    """Row b becomes share * row b + (1 - share) * row partners[b] (Zhang et al. 2018, arXiv:1710.09412)."""

    partners: "Tensor"
    """[B], positions in the batch."""
    share: float
    """Of the row itself, between 1/2 and 1: which of two rows comes first is symmetric."""

    def blend(self, inputs: "Tensor") -> "Tensor":
        """Blend float rows [B, ...]."""
        return self.share * inputs + (1 - self.share) * inputs[self.partners.to(inputs.device)]


def _require_images(name: str, value: int | bool, input_shape: tuple[int, ...]) -> None:
    if value and len(input_shape) != 3:
        raise TechniqueError(
            f"augmentation.{name}={value} needs images of shape [C, H, W], but the rows have shape "
            f"{list(input_shape)}; leave it out"
        )


def flipped(images_BCHW: "Tensor", generator: "Generator") -> "Tensor":
    """Mirror each image left to right with probability one half."""
    import torch

    chosen_B = torch.rand(len(images_BCHW), generator=generator) < 0.5
    return torch.where(chosen_B.to(images_BCHW.device)[:, None, None, None], images_BCHW.flip(3), images_BCHW)


def cut_out(images_BCHW: "Tensor", side: int, generator: "Generator") -> "Tensor":
    """Set a square to 0 in each image with probability one half (DeVries & Taylor 2017, arXiv:1708.04552).

    The square's centre is uniform over the image, so that a part of it may lie outside.
    """
    import torch

    num_rows, _, height, width = images_BCHW.shape
    chosen_B11 = (torch.rand(num_rows, generator=generator) < 0.5)[:, None, None]
    top_B11 = torch.randint(0, height, (num_rows, 1, 1), generator=generator) - side // 2
    left_B11 = torch.randint(0, width, (num_rows, 1, 1), generator=generator) - side // 2
    rows_H1, columns_W = torch.arange(height)[:, None], torch.arange(width)
    inside_BHW = (rows_H1 >= top_B11) & (rows_H1 < top_B11 + side) & (columns_W >= left_B11)
    hidden_BHW = inside_BHW & (columns_W < left_B11 + side) & chosen_B11
    return images_BCHW.masked_fill(hidden_BHW[:, None].to(images_BCHW.device), 0.0)


def shifted(images_BCHW: "Tensor", max_shift: int, generator: "Generator") -> "Tensor":
    """Move each image by its own whole offset, uniform on [-max_shift, max_shift] per axis, filling with 0.

    The whole batch is gathered at once from its zero-padded copy: row b, pixel (h, w) is padded
    pixel (h + dy_b, w + dx_b) with 0 <= dy_b, dx_b <= 2 max_shift.
    """
    import torch
    from torch.nn import functional

    num_rows, num_channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded = functional.pad(images_BCHW, (max_shift,) * 4)
    offsets_2B = torch.randint(0, 2 * max_shift + 1, (2, num_rows), generator=generator).to(device)
    rows_B1H1 = (offsets_2B[0, :, None] + torch.arange(height, device=device))[:, None, :, None]
    columns_B11W = (offsets_2B[1, :, None] + torch.arange(width, device=device))[:, None, None, :]
    batch_B111 = torch.arange(num_rows, device=device)[:, None, None, None]
    channels_1C11 = torch.arange(num_channels, device=device)[None, :, None, None]
    return padded[batch_B111, channels_1C11, rows_B1H1, columns_B11W]
