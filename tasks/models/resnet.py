"""Residual convolutional networks for images from 8x8 pixels up (He et al. 2016, `basic` blocks).

Dimension legend: B rows, C channels, H height, W width, K outputs. Every convolution is followed by
batch norm, so that both fold into one int8 operation; control flow depends on no data, so that
torch.fx traces the network and the ONNX exporter sees one static graph.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from tasks.contracts.errors import ModelError


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))); the shortcut projects where the shape changes."""

    def __init__(self, num_inputs: int, num_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(num_inputs, num_channels, stride)
        self.norm1 = nn.BatchNorm2d(num_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3x3(num_channels, num_channels, 1)
        self.norm2 = nn.BatchNorm2d(num_channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_channels:
            projection = nn.Conv2d(num_inputs, num_channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection, norm=nn.BatchNorm2d(num_channels)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return [B, num_channels, ceil(H / stride), ceil(W / stride)]."""
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x_BCHW)))))
        return cast(Tensor, self.relu2(self.shortcut(x_BCHW) + residual))


def resnet(
    input_shape: Sequence[int],
    num_outputs: int,
    width: int = 32,
    blocks: Sequence[int] = (1, 1, 1),
    stem_stride: int = 1,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a residual network: stem, stages, global average pooling, linear head.

    Args:
        input_shape: [C, H, W] of one image.
        num_outputs: K, number of classes, or 1 for regression.
        width: channels of the stem and of the first stage; every further stage has twice as many
            at half the resolution.
        blocks: residual blocks of each stage.
        stem_stride: 2 halves the resolution at once, for images of 28x28 and more.
        dropout: probability of dropping a feature before the head.

    Returns:
        A module from [B, C, H, W] to [B, K].

    Raises:
        ModelError: the rows are no images, or an argument is out of its bounds.
    """
    if len(input_shape) != 3:
        raise ModelError(f"resnet takes images [C, H, W], but input_shape is {list(input_shape)}; use mlp for tables")
    if width < 1 or stem_stride < 1 or not blocks or min(blocks) < 1 or not 0 <= dropout < 1:
        raise ModelError(
            f"resnet got width={width}, blocks={list(blocks)}, stem_stride={stem_stride}, dropout={dropout}; "
            "width, stem_stride and each entry of blocks must be at least 1, dropout at least 0 and below 1"
        )
    stem = OrderedDict(conv=_conv3x3(input_shape[0], width, stem_stride), norm=nn.BatchNorm2d(width), relu=nn.ReLU())
    stages = [_stage(width, index, num_blocks) for index, num_blocks in enumerate(blocks)]
    features = width * 2 ** (len(blocks) - 1)
    module = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(stem),
            stages=nn.Sequential(*stages),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            head=nn.Linear(features, num_outputs),
        )
    )
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


def _stage(width: int, index: int, num_blocks: int) -> nn.Sequential:
    """Return the blocks of stage `index` (from 0), the first of which halves the resolution unless index is 0."""
    num_channels = width * 2**index
    num_inputs = num_channels if index == 0 else num_channels // 2
    first = ResidualBlock(num_inputs, num_channels, stride=1 if index == 0 else 2)
    return nn.Sequential(first, *(ResidualBlock(num_channels, num_channels, 1) for _ in range(num_blocks - 1)))


def _conv3x3(num_inputs: int, num_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(num_inputs, num_channels, kernel_size=3, stride=stride, padding=1, bias=False)
