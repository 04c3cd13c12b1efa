"""The number format in which networks compute while they train."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from tasks.contracts.errors import TechniqueError
from tasks.evaluation.machine import computes_bfloat16, instruction_sets, processor_model

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16", "auto"]
"""`auto` is settled by a probe, before a stage that trains is given its schedule; nothing computes in it."""


def computing_in(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Return a context in which convolutions and products of matrices run in `precision`.

    Weights, their updates and batch statistics stay in float32 (mixed precision, Micikevicius et al. 2018,
    arXiv:1710.03740). bfloat16 has the range of float32, so that no scaling of the loss is needed.

    Raises:
        TechniqueError: the device is a processor without instructions for bfloat16. PyTorch's software path is many
            times slower than float32.
    """
    assert precision != "auto", "a probe settles this before any work"
    if precision == "float32":
        return nullcontext()
    import torch

    kind = torch.device(device).type
    if kind == "cpu" and computes_bfloat16(instruction_sets()) is False:
        raise TechniqueError(
            f"precision bfloat16 needs a GPU or a processor with instructions for it, but this one "
            f"({processor_model()}) has none; set schedule.precision to float32, or run the stage on another machine"
        )
    return torch.autocast(kind, torch.bfloat16)


def widened(tensor: "Tensor") -> "Tensor":
    """Return a tensor of bfloat16 as float32, in which losses are computed; others as they are."""
    import torch

    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor
