"""Fully connected networks for tables. Dimension legend: B rows, F features, K outputs."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from tasks.contracts.errors import ModelError


class Affine(nn.Module):
    """Fixed scale and offset of the outputs, so that targets in any unit are learned at unit scale."""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale = scale
        self.offset = offset

    def forward(self, x_BK: Tensor) -> Tensor:
        """Return scale * x + offset, [B, K]."""
        return x_BK * self.scale + self.offset


def mlp(
    input_shape: Sequence[int],
    num_outputs: int,
    hidden: Sequence[int] = (64, 64),
    dropout: float = 0.0,
    output_scale: float = 1.0,
    output_offset: float = 0.0,
) -> nn.Module:
    """Build a network of linear layers and ReLU that takes raw features.

    An affine-free batch norm standardises the features. It keeps the plain mean over all batches
    instead of a moving one, since the distribution of the inputs does not move while training.

    Args:
        input_shape: shape of one row; flattened to F features.
        num_outputs: K, number of classes, or 1 for regression.
        hidden: widths of the hidden layers; empty gives a linear model.
        dropout: probability of dropping a hidden unit.
        output_scale: for regression, the standard deviation of the target.
        output_offset: for regression, the mean of the target.

    Returns:
        A module from [B, *input_shape] to [B, K].

    Raises:
        ModelError: an argument is out of its bounds.
    """
    if min(hidden, default=1) < 1 or not 0 <= dropout < 1 or output_scale == 0:
        raise ModelError(
            f"mlp got hidden={list(hidden)}, dropout={dropout}, output_scale={output_scale}; hidden widths must be "
            "at least 1, dropout at least 0 and below 1, output_scale not 0"
        )
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten(), nn.BatchNorm1d(widths[0], momentum=None, affine=False)]
    for num_inputs, num_units in itertools.pairwise(widths):
        layers += [nn.Linear(num_inputs, num_units), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    layers.append(nn.Linear(widths[-1], num_outputs))
    if (output_scale, output_offset) != (1.0, 0.0):
        layers.append(Affine(output_scale, output_offset))
    return nn.Sequential(*layers)
