"""Several networks that teach as one. Dimension legend: M networks, B rows of a batch, K outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.contracts.data import Task
from tasks.techniques.distillation.losses import softened_mean
from tasks.techniques.precision import widened


class Ensemble(nn.Module):
    """The mean of several networks: of their probabilities at a temperature, or of their outputs for regression."""

    def __init__(self, members: Sequence[nn.Module], task: Task, temperature: float) -> None:
        """Join networks from [B, *input_shape] to [B, K]; `temperature` is the one at which the student learns."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self._task = task
        self._temperature = temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [B, K]: logits whose softmax at the temperature is the mean probability, or the mean output."""
        outputs_MBK = torch.stack([widened(member(inputs)) for member in self.members])
        if self._task == "classification":
            return softened_mean(outputs_MBK, self._temperature)
        return outputs_MBK.mean(dim=0)
