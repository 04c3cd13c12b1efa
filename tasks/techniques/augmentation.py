"""Random views of a batch of images. Dimension legend: B rows, C channels, H height, W width."""

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

    @property
    def is_identity(self) -> bool:
        """Whether every row is always seen as it is."""
        return self.shift_pixels == 0

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Check that rows of `input_shape` can be varied this way.

        Raises:
            TechniqueError: the rows are not images [C, H, W], or the shift would move them out of sight.
        """
        if self.is_identity:
            return
        if len(input_shape) != 3:
            raise TechniqueError(
                f"augmentation.shift_pixels={self.shift_pixels} needs images of shape [C, H, W], but the rows "
                f"have shape {list(input_shape)}; set shift_pixels to 0"
            )
        if self.shift_pixels >= min(input_shape[1:]):
            raise TechniqueError(
                f"augmentation.shift_pixels={self.shift_pixels} moves images of {input_shape[1]}x{input_shape[2]} "
                f"pixels out of sight; set it below {min(input_shape[1:])}"
            )

    def view(self, images_BCHW: "Tensor", generator: "Generator") -> "Tensor":
        """Return a random view of each row, drawn from `generator` (a CPU generator on every device)."""
        if self.is_identity:
            return images_BCHW
        return shifted(images_BCHW, self.shift_pixels, generator)


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
