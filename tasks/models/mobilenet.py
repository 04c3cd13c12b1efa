"""Inverted residual networks with depthwise convolutions (Sandler et al. 2018, arXiv:1801.04381).

Dimension legend: B rows, C channels, H height, W width, K outputs. Batch norm follows every convolution,
so that both fold into one int8 operation. ReLU stands where the paper has ReLU6: a quantiser finds the
range by itself, and one operation less remains in the graph.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from tasks.contracts.errors import ModelError


class InvertedResidual(nn.Module):
    """project(depthwise(expand(x))), plus x where the shape stays; the projection has no activation."""

    def __init__(self, num_inputs: int, num_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = num_inputs * expansion
        self.expand: nn.Module = _convolution(num_inputs, hidden, kernel=1) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = _convolution(hidden, num_channels, kernel=1, activates=False)
        self.is_residual = stride == 1 and num_inputs == num_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return [B, num_channels, ceil(H / stride), ceil(W / stride)]."""
        projected_BCHW = cast(Tensor, self.project(self.depthwise(self.expand(x_BCHW))))
        return x_BCHW + projected_BCHW if self.is_residual else projected_BCHW


def mobilenet(
    input_shape: Sequence[int],
    num_outputs: int,
    width: int = 16,
    blocks: Sequence[int] = (1, 2, 2),
    expansion: int = 4,
    stem_stride: int = 1,
    dropout: float = 0.0,
) -> nn.Module:
    """Build stem, stages of inverted residuals, a 1x1 convolution, global average pooling, linear head.

    Args:
        input_shape: [C, H, W] of one image.
        num_outputs: K, number of classes, or 1 for regression.
        width: channels of the stem and of the first stage; every further stage has twice as many
            at half the resolution.
        blocks: inverted residuals of each stage.
        expansion: hidden channels of a block over its inputs, and features of the head over the last stage;
            1 leaves the expanding convolutions out.
        stem_stride: 2 halves the resolution at once, for images of 28x28 and more.
        dropout: probability of dropping a feature before the head.

    Returns:
        A module from [B, C, H, W] to [B, K].

    Raises:
        ModelError: the rows are no images, or an argument is out of its bounds.
    """
    if len(input_shape) != 3:
        raise ModelError(
            f"mobilenet takes images [C, H, W], but input_shape is {list(input_shape)}; use mlp for tables"
        )
    if min(width, expansion, stem_stride, *blocks, len(blocks)) < 1 or not 0 <= dropout < 1:
        raise ModelError(
            f"mobilenet got width={width}, blocks={list(blocks)}, expansion={expansion}, stem_stride={stem_stride}, "
            f"dropout={dropout}; width, expansion, stem_stride and each entry of blocks must be at least 1, "
            "dropout at least 0 and below 1"
        )
    stages = [_stage(width, index, num_blocks, expansion) for index, num_blocks in enumerate(blocks)]
    last = width * 2 ** (len(blocks) - 1)
    module = nn.Sequential(
        OrderedDict(
            stem=_convolution(input_shape[0], width, kernel=3, stride=stem_stride),
            stages=nn.Sequential(*stages),
            features=_convolution(last, last * expansion, kernel=1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            head=nn.Linear(last * expansion, num_outputs),
        )
    )
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return module


def _stage(width: int, index: int, num_blocks: int, expansion: int) -> nn.Sequential:
    """Return the blocks of stage `index` (from 0), the first of which halves the resolution unless index is 0."""
    num_channels = width * 2**index
    num_inputs = num_channels if index == 0 else num_channels // 2
    first = InvertedResidual(num_inputs, num_channels, 1 if index == 0 else 2, expansion)
    return nn.Sequential(
        first, *(InvertedResidual(num_channels, num_channels, 1, expansion) for _ in range(num_blocks - 1))
    )


def _convolution(
    num_inputs: int, num_channels: int, *, kernel: int, stride: int = 1, groups: int = 1, activates: bool = True
) -> nn.Sequential:
    """Return convolution, batch norm and, if it `activates`, ReLU."""
    convolution = nn.Conv2d(
        num_inputs, num_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution, norm=nn.BatchNorm2d(num_channels))
    if activates:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)
