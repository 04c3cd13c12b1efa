"""The number format in which networks compute while they train."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16"]


def computing_in(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Return a context in which convolutions and products of matrices run in `precision`.

    Weights, their updates and batch statistics stay in float32 (mixed precision, Micikevicius et al. 2018,
    arXiv:1710.03740). bfloat16 has the range of float32, so that no scaling of the loss is needed.
    """
    if precision == "float32":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16)


def widened(tensor: "Tensor") -> "Tensor":
    """Return a tensor of bfloat16 as float32, in which losses are computed; others as they are."""
    import torch

    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor
