"""Plain convolutional networks: no shortcut, hence the fewest operations that a runtime has to start.

Small int8 networks spend most of a call on starting operations, so that a plain stack is the faster student where
a residual network is the better teacher (Simonyan & Zisserman 2015, arXiv:1409.1556, with batch norm).

Dimension legend: B rows, C channels, H height, W width, K outputs.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tasks.contracts.errors import ModelError


def convnet(
    input_shape: Sequence[int],
    num_outputs: int,
    widths: Sequence[int] = (16, 32, 64),
    convolutions: Sequence[int] = (2, 2, 2),
    strides: Sequence[int] = (2, 2, 2),
    dropout: float = 0.0,
) -> nn.Module:
    """Build stages of 3x3 convolutions with batch norm and ReLU, global average pooling, and a linear head.

    Args:
        input_shape: [C, H, W] of one image.
        num_outputs: K, number of classes, or 1 for regression.
        widths: channels of each stage.
        convolutions: how many convolutions each stage has.
        strides: of the first convolution of each stage.
        dropout: probability of dropping a feature before the head.

    Returns:
        A module from [B, C, H, W] to [B, K].

    Raises:
        ModelError: the rows are no images, or an argument is out of its bounds.
    """
    if len(input_shape) != 3:
        raise ModelError(f"convnet takes images [C, H, W], but input_shape is {list(input_shape)}; use mlp for tables")
    if not len(widths) == len(convolutions) == len(strides) or not widths:
        raise ModelError(
            f"convnet got widths={list(widths)}, convolutions={list(convolutions)}, strides={list(strides)}; "
            "give one of each for every stage"
        )
    if min(*widths, *convolutions, *strides) < 1 or not 0 <= dropout < 1:
        raise ModelError(
            f"convnet got widths={list(widths)}, convolutions={list(convolutions)}, strides={list(strides)}, "
            f"dropout={dropout}; the numbers must be at least 1, dropout at least 0 and below 1"
        )
    layers: list[nn.Module] = []
    num_inputs = input_shape[0]
    for width, num_convolutions, stride in zip(widths, convolutions, strides, strict=True):
        for position in range(num_convolutions):
            layers.append(_layer(num_inputs, width, stride if position == 0 else 1))
            num_inputs = width
    return nn.Sequential(
        OrderedDict(
            layers=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            head=nn.Linear(num_inputs, num_outputs),
        )
    )


def _layer(num_inputs: int, num_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(num_inputs, num_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(num_channels), relu=nn.ReLU()))
