"""In which order images lie in memory while a network trains."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_FEW_CHANNELS = 8


def survives_channels_last(module: "nn.Module", device: str) -> bool:
    """Tell whether a network can train with its images in NHWC order.

    On processors with AVX2 and no AVX-512, PyTorch 2.13 writes outside of its buffers in the backward pass of a strided
    1x1 convolution of fewer than 8 channels in that order. Networks so narrow gain nothing by it anyway, so they train
    in the usual order everywhere.
    """
    from torch import nn

    return device != "cpu" or not any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < _FEW_CHANNELS
        for layer in module.modules()
    )
