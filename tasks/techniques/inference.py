"""Running a torch module over many rows without training it."""

import torch
from torch import Tensor, nn

from tasks.techniques.precision import Precision, computing_in, widened


def outputs_of(module: nn.Module, inputs: Tensor, batch_size: int, precision: Precision = "float32") -> Tensor:
    """Return the module's outputs [N, K] for `inputs` [N, *input_shape], in eval mode and without gradients.

    The module is left in the mode that it was in.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), computing_in(precision, inputs.device.type):
            return torch.cat([widened(module(part)) for part in torch.split(inputs, batch_size)])
    finally:
        module.train(was_training)
