"""A network as a user would bring it: a module of their own, with a layer that Stillhouse has never seen."""

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Weighs every feature by a learned share between 0 and 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(width))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x_BF: Tensor) -> Tensor:
        return x_BF * torch.sigmoid(self.logits) * self.scale


def gated(input_shape: list[int], num_outputs: int, width: int = 12) -> nn.Sequential:
    num_inputs = int(torch.tensor(input_shape).prod())
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_inputs, width), nn.ReLU(), Gate(width), nn.Linear(width, num_outputs)
    )


def without_annotation(input_shape, num_outputs):
    return nn.Linear(input_shape[0], num_outputs)
