"""Small vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929).

Dimension legend: B rows, C channels, H height, W width, T patches, F features of a patch, K outputs.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tasks.contracts.errors import ModelError
from tasks.models.attention import EncoderBlock


class VisionTransformer(nn.Module):
    """Patches, learned positions, encoder blocks, the mean over the patches, norm, linear head."""

    def __init__(
        self,
        patches: nn.Conv2d,
        num_patches: int,
        blocks: Sequence[EncoderBlock],
        num_outputs: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = patches.out_channels
        self.patches = patches
        self.position = nn.Parameter(torch.empty(1, num_patches, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_outputs)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return [B, K]."""
        tokens_BTF = self.patches(x_BCHW).flatten(2).transpose(1, 2) + self.position
        encoded_BTF = self.blocks(self.dropout(tokens_BTF))
        return cast(Tensor, self.head(self.norm(encoded_BTF.mean(dim=1))))


def vit(
    input_shape: Sequence[int],
    num_outputs: int,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_ratio: float = 2.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a vision transformer that averages its patches instead of carrying a class token.

    The mean needs no token of its own and does as well (Beyer et al. 2022, arXiv:2205.01580).

    Args:
        input_shape: [C, H, W] of one image.
        num_outputs: K, number of classes, or 1 for regression.
        patch: height and width of a patch; divides H and W.
        width: F; a multiple of `heads`.
        depth: number of encoder blocks.
        heads: attention heads of each block.
        mlp_ratio: hidden width of a block's two linear layers over `width`.
        dropout: probability of dropping a feature of the patches and of what each branch adds.

    Returns:
        A module from [B, C, H, W] to [B, K].

    Raises:
        ModelError: the rows are no images, the patches do not tile them, or an argument is out of its bounds.
    """
    if len(input_shape) != 3:
        raise ModelError(f"vit takes images [C, H, W], but input_shape is {list(input_shape)}; use mlp for tables")
    if min(patch, width, depth, heads, mlp_ratio * width) < 1 or width % heads or not 0 <= dropout < 1:
        raise ModelError(
            f"vit got patch={patch}, width={width}, depth={depth}, heads={heads}, mlp_ratio={mlp_ratio}, "
            f"dropout={dropout}; patch, depth, heads and mlp_ratio x width must be at least 1, width a multiple of "
            "heads, dropout at least 0 and below 1"
        )
    num_channels, height, breadth = input_shape
    if height % patch or breadth % patch:
        fitting = [size for size in range(1, min(height, breadth) + 1) if height % size == 0 and breadth % size == 0]
        raise ModelError(f"vit: patch={patch} does not tile images of {height}x{breadth}; take one of {fitting}")
    patches = nn.Conv2d(num_channels, width, kernel_size=patch, stride=patch)
    num_patches = (height // patch) * (breadth // patch)
    encoder = [EncoderBlock(width, heads, round(mlp_ratio * width), dropout) for _ in range(depth)]
    module = VisionTransformer(patches, num_patches, encoder, num_outputs, dropout)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module
