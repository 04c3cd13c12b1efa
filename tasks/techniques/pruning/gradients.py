"""Gradients of the loss by the weights, row by row: what Taylor and Hessian criteria rest on."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.models.parametrizations import without_parametrizations
from tasks.techniques.loss import Batch, Loss
from tasks.techniques.technique import Arrays

Gradients = dict[str, Tensor]
"""By the parameter's name; float64 on the CPU, of the parameter's shape."""


@dataclass(frozen=True)
class GradientStatistics:
    """What is known of one parameter's gradients; float64 on the CPU, of the parameter's shape."""

    mean: Tensor
    """Mean over the rows: the gradient of the mean loss."""
    mean_square: Tensor
    """Mean over the batches of the squared gradient of a batch's mean loss. With one row to a batch it is the
    diagonal of the empirical Fisher matrix, which stands for the Hessian's (Theis et al. 2018, arXiv:1801.05787)."""


def batch_gradients(
    module: nn.Module,
    split: Arrays,
    loss: Loss,
    *,
    batch_size: int = 1,
    num_rows: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[tuple[Gradients, int]]:
    """Yield, for each batch of rows, the gradient of its mean loss and the number of its rows.

    The network runs in evaluation mode, so that rows do not mix, on a copy whose computed weights
    (masked, shared) are made plain. Names are those of that copy: a masked `conv.weight` is
    `conv.weight`, and its gradient covers the weights under the mask too. All parameters get a
    gradient, frozen ones too; it is zero where the loss does not depend on the parameter.

    Args:
        module: the network; it is left as it is.
        split: rows to draw from, without replacement.
        loss: as in training.
        batch_size: rows of each batch; the last may be smaller.
        num_rows: how many rows to draw; None, or more than there are, takes all.
        seed: draws the rows; equal arguments give equal gradients.
        device: torch device to compute on.

    Raises:
        TechniqueError: the split has no rows, or the loss of a batch is not finite.
    """
    if not len(split.y):
        raise TechniqueError("gradients need at least one labelled row, but the split has none; give it more data")
    plain = without_parametrizations(copy.deepcopy(module)).to(device).eval().requires_grad_(True)
    names, parameters = zip(*plain.named_parameters(), strict=True)
    inputs, labels_N = torch.from_numpy(split.x), torch.from_numpy(split.y)
    order_N = torch.randperm(len(split.y), generator=torch.Generator().manual_seed(seed))[:num_rows]
    for rows_B in torch.split(order_N, batch_size):
        batch = Batch(inputs[rows_B].to(device), labels_N[rows_B].to(device), rows_B.to(device))
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
            value = loss(plain(batch.inputs), batch)
            if not torch.isfinite(value):
                raise TechniqueError(
                    f"the loss of rows {rows_B.tolist()[:8]} is {value.item()}, so there is no gradient to judge "
                    "weights by; check the data and the network, or take a criterion without gradients"
                )
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        yield {name: one.cpu().double() for name, one in zip(names, gradients, strict=True)}, len(rows_B)


def accumulated_gradients(
    module: nn.Module,
    split: Arrays,
    loss: Loss,
    *,
    batch_size: int = 1,
    num_rows: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, GradientStatistics]:
    """Return mean and mean square of the gradients by every parameter; see `batch_gradients` for the arguments.

    Raises:
        TechniqueError: see `batch_gradients`.
    """
    sums: Gradients = {}
    squares: Gradients = {}
    rows = batches = 0
    for gradients, size in batch_gradients(
        module, split, loss, batch_size=batch_size, num_rows=num_rows, seed=seed, device=device
    ):
        for name, gradient in gradients.items():
            sums[name] = torch.add(sums[name], gradient, alpha=size) if name in sums else gradient * size
            squares[name] = squares[name] + gradient.square() if name in squares else gradient.square()
        rows, batches = rows + size, batches + 1
    return {name: GradientStatistics(total / rows, squares[name] / batches) for name, total in sums.items()}
