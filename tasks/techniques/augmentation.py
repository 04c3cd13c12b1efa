"""Random views of a batch of rows. Dimension legend: B rows, V views, C channels, H height, W width, T tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.contracts.data import SpecialTokens
from tasks.contracts.errors import TechniqueError
from tasks.contracts.value import Value

if TYPE_CHECKING:
    from torch import Generator, Tensor

_VIEW_SEED = 0
"""Of the views that rows have once and for all."""


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
    token_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Texts only: each token is hidden with this probability, as if padding stood there. Special "
        "tokens stay, and so does a text that would lose all the others.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Float inputs only: a > 0 blends each row with another, with a share drawn from Beta(a, a).",
    )

    num_views: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Above 0, each row has so many views, drawn once, and the epochs take them in turn, so that a "
        "teacher need not see a view twice; 0 draws new views for ever.",
    )

    @property
    def is_identity(self) -> bool:
        """Whether every row is always seen as it is."""
        return not (self.shift_pixels or self.flip_horizontal or self.cutout_pixels or self.token_dropout or self.mixup)

    @property
    def views_repeat(self) -> bool:
        """Whether a row is only ever seen in `num_views` ways, or as it is."""
        return self.is_identity or (self.num_views > 0 and not self.mixup)

    def check(
        self, input_shape: tuple[int, ...], dtype: str = "float32", special_tokens: SpecialTokens | None = None
    ) -> None:
        """Check that rows of `input_shape` and `dtype` can be varied this way.

        Args:
            input_shape: shape of a row.
            dtype: of its values.
            special_tokens: of a text; None for other rows.

        Raises:
            TechniqueError: the rows are not images [C, H, W], a shift or a cutout would hide them, they are no
                numbers that can be blended, or no texts whose tokens can be hidden.
        """
        if self.token_dropout and special_tokens is None:
            raise TechniqueError(
                f"augmentation.token_dropout={self.token_dropout:g} hides tokens of texts, but the rows have shape "
                f"{list(input_shape)} and are no texts; leave it out"
            )
        if self.mixup and dtype != "float32":
            raise TechniqueError(
                f"augmentation.mixup={self.mixup:g} blends rows of float32, but these are {dtype} (token ids); "
                "leave it out"
            )
        for name, pixels in (("shift_pixels", self.shift_pixels), ("cutout_pixels", self.cutout_pixels)):
            _require_images(name, pixels, input_shape)
            if pixels and pixels >= min(input_shape[1:]):
                raise TechniqueError(
                    f"augmentation.{name}={pixels} leaves nothing to see of images of "
                    f"{input_shape[1]}x{input_shape[2]} pixels; set it below {min(input_shape[1:])}"
                )
        _require_images("flip_horizontal", self.flip_horizontal, input_shape)

    def draw(self, num_views: int, input_shape: Sequence[int], generator: "Generator") -> "Views":
        """Draw the random choices behind `num_views` views from `generator`, a CPU generator on every device."""
        import torch

        def whole(high: int) -> "Tensor":
            return torch.randint(0, high, (num_views,), generator=generator)

        side, hidden = self.cutout_pixels, None
        if self.token_dropout:
            # bool at once: floats to compare with would take four times the memory of the views
            hidden = torch.empty((num_views, *input_shape), dtype=torch.bool)
            hidden.bernoulli_(self.token_dropout, generator=generator)
        return Views(
            shift_y=whole(2 * self.shift_pixels + 1) if self.shift_pixels else None,
            shift_x=whole(2 * self.shift_pixels + 1) if self.shift_pixels else None,
            mirrored=whole(2).bool() if self.flip_horizontal else None,
            cut=whole(2).bool() if side else None,
            cut_y=whole(input_shape[1]) - side // 2 if side else None,
            cut_x=whole(input_shape[2]) - side // 2 if side else None,
            hidden=hidden,
        )

    def fixed_views(self, num_rows: int, input_shape: Sequence[int]) -> "Views | None":
        """Draw all views of all rows where they repeat; view v of row n is at n * num_views + v. None: they do not.

        They belong to the rows, not to a run: every training shows the same ones, so that a teacher's answers hold
        for several students.
        """
        import torch

        if self.is_identity or not self.num_views:
            return None
        return self.draw(num_rows * self.num_views, input_shape, torch.Generator().manual_seed(_VIEW_SEED))

    def view(self, inputs: "Tensor", views: "Views", special_tokens: SpecialTokens | None = None) -> "Tensor":
        """Return the rows [B, *input_shape] as B drawn views show them; `special_tokens` are those of a text."""
        if views.shift_y is not None and views.shift_x is not None:
            inputs = shifted(inputs, self.shift_pixels, views.shift_y, views.shift_x)
        if views.mirrored is not None:
            inputs = mirrored(inputs, views.mirrored)
        if views.cut is not None and views.cut_y is not None and views.cut_x is not None:
            inputs = cut_out(inputs, self.cutout_pixels, views.cut, views.cut_y, views.cut_x)
        if views.hidden is not None:
            assert special_tokens is not None, "`check` refuses rows that are no texts"
            inputs = without_tokens(inputs, views.hidden, special_tokens)
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
class Views:
    """The random choices behind V views, tensors [V] unless noted; None for what is not varied."""

    shift_y: "Tensor | None"
    """From 0 to twice `shift_pixels`."""
    shift_x: "Tensor | None"
    mirrored: "Tensor | None"
    cut: "Tensor | None"
    """Whether a square is cut out at all."""
    cut_y: "Tensor | None"
    """Top of the square; may lie outside."""
    cut_x: "Tensor | None"
    hidden: "Tensor | None"
    """[V, T], which places of a text to hide."""

    def __getitem__(self, places: "Tensor") -> "Views":
        """Return the views at `places` [B]."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Views(**{name: column if column is None else column[places] for name, column in columns.items()})


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


def mirrored(images_BCHW: "Tensor", chosen_B: "Tensor") -> "Tensor":
    """Mirror the chosen images left to right."""
    import torch

    return torch.where(chosen_B.to(images_BCHW.device)[:, None, None, None], images_BCHW.flip(3), images_BCHW)


def cut_out(images_BCHW: "Tensor", side: int, chosen_B: "Tensor", top_B: "Tensor", left_B: "Tensor") -> "Tensor":
    """Set a square of `side` pixels to 0 in the chosen images (DeVries & Taylor 2017, arXiv:1708.04552)."""
    import torch

    height, width = images_BCHW.shape[2:]
    rows_H1, columns_W = torch.arange(height)[:, None], torch.arange(width)
    top_B11, left_B11 = top_B[:, None, None], left_B[:, None, None]
    in_rows_BH1 = (rows_H1 >= top_B11) & (rows_H1 < top_B11 + side)
    in_columns_B1W = (columns_W >= left_B11) & (columns_W < left_B11 + side)
    hidden_BHW = in_rows_BH1 & in_columns_B1W & chosen_B[:, None, None]
    return images_BCHW.masked_fill(hidden_BHW[:, None].to(images_BCHW.device), 0.0)


def without_tokens(ids_BT: "Tensor", hidden_BT: "Tensor", special_tokens: SpecialTokens) -> "Tensor":
    """Set hidden tokens to padding (word dropout: Iyyer et al. 2015, ACL Anthology P15-1162).

    What stays keeps its place, so that a network with positions sees a gap and not another sentence. Special
    tokens are never hidden, nor is any token of a text that would be left with none but special ones.
    """
    import torch

    special = torch.tensor([special_tokens.pad, *special_tokens.others], device=ids_BT.device)
    of_text_BT = ~torch.isin(ids_BT, special)
    hidden_BT = hidden_BT.to(ids_BT.device) & of_text_BT
    keeps_some_B1 = (of_text_BT & ~hidden_BT).any(dim=1, keepdim=True)
    return ids_BT.masked_fill(hidden_BT & keeps_some_B1, special_tokens.pad)


def shifted(images_BCHW: "Tensor", max_shift: int, shift_y_B: "Tensor", shift_x_B: "Tensor") -> "Tensor":
    """Move each image by its own whole offset, filling with 0.

    The whole batch is gathered at once from its zero-padded copy: row b, pixel (h, w) is padded
    pixel (h + shift_y_b, w + shift_x_b) with 0 <= shift_y_b, shift_x_b <= 2 max_shift.
    """
    import torch
    from torch.nn import functional

    num_rows, num_channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded = functional.pad(images_BCHW, (max_shift,) * 4)
    rows_B1H1 = (shift_y_B.to(device)[:, None] + torch.arange(height, device=device))[:, None, :, None]
    columns_B11W = (shift_x_B.to(device)[:, None] + torch.arange(width, device=device))[:, None, None, :]
    batch_B111 = torch.arange(num_rows, device=device)[:, None, None, None]
    channels_1C11 = torch.arange(num_channels, device=device)[None, :, None, None]
    return padded[batch_B111, channels_1C11, rows_B1H1, columns_B11W]
