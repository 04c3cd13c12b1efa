"""Rows made up from a network alone: inputs for which its batch norms see the statistics that they remember.

DeepInversion, Yin et al. 2020 (arXiv:1912.08795). Dimension legend: N rows to make, B rows of a batch, C channels,
H height, W width, K outputs.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.contracts.errors import TechniqueError

_START_SCALE = 0.1
"""Standard deviation of the noise that rows start from: what the teacher is blind to stays in them as it began."""


@dataclass(frozen=True)
class Inversion:
    """Minimises CE(y, t(x)) + a R_BN(x) + b R_TV(x) + c mean x^2 over the inputs x, by Adam.

    y are classes chosen beforehand, t(x) the teacher's logits, and a, b, c the weights below; the regularisers are
    `statistics_distance` and `total_variation`.
    """

    steps: int
    """Optimizer steps for each batch."""
    batch_size: int
    """Rows whose statistics are compared together."""
    learning_rate: float
    """At the start; it falls to 0 by a cosine."""
    statistics_weight: float
    variation_weight: float
    """Images only."""
    norm_weight: float

    def synthesise(
        self, teacher: nn.Module, num_rows: int, input_shape: tuple[int, ...], num_classes: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Make rows of equally many of all classes, in near-equal batches of no fewer than two.

        Args:
            teacher: in evaluation mode with frozen weights; its batch norms are left as they are.
            num_rows: N.
            input_shape: of one row.
            num_classes: K.
            seed: equal arguments give equal rows.

        Returns:
            Rows [N, *input_shape] float32 and their classes [N] int64, both on the CPU.

        Raises:
            TechniqueError: the teacher has no batch norm with running statistics, or the rows diverged.
        """
        layers = remembering_norms(teacher)
        device = next(teacher.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        labels_N = torch.arange(num_rows) % num_classes
        parts = []
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            for labels_B in labels_N.tensor_split(max(1, min(math.ceil(num_rows / self.batch_size), num_rows // 2))):
                start = _START_SCALE * torch.randn(len(labels_B), *input_shape, generator=generator)
                parts.append(self._optimised(teacher, layers, start.to(device), labels_B.to(device)).cpu())
        return torch.cat(parts), labels_N

    def _optimised(self, teacher: nn.Module, layers: list[_BatchNorm], start: Tensor, labels_B: Tensor) -> Tensor:
        """Return the inputs [B, *input_shape] that `start` becomes."""
        inputs = start.requires_grad_()
        # the authors' betas: the distances fall by orders of magnitude, which a long memory of gradients would slow
        optimizer = torch.optim.Adam([inputs], lr=self.learning_rate, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        with norm_inputs(layers) as seen:
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                logits_BK = teacher(inputs)
                loss = functional.cross_entropy(logits_BK, labels_B) + self._priors(inputs, layers, seen)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        if not bool(inputs.isfinite().all()):
            raise TechniqueError(
                f"the synthetic rows diverged at synthesis learning rate {self.learning_rate:g}; lower it"
            )
        return inputs.detach()

    def _priors(self, inputs: Tensor, layers: list[_BatchNorm], seen: dict[_BatchNorm, Tensor]) -> Tensor:
        total = self.norm_weight * inputs.square().mean()
        for layer in layers:
            total = total + self.statistics_weight * statistics_distance(layer, seen[layer])
        if inputs.ndim == 4:
            total = total + self.variation_weight * total_variation(inputs)
        return total


def statistics_distance(layer: _BatchNorm, features: Tensor) -> Tensor:
    """2 KL(N(mean, var) || N(running mean, running var)), the mean over the channels.

    For each channel that is (mean - running mean)^2 / running var + r - 1 - ln r with r = var / running var, and it
    is 0 where the statistics agree. mean and var are those of `features` [B, C, ...] over all axes but the channels'.
    The variance is the unbiased one, since that is what a batch norm remembers; the layer's eps is added to both, so
    that a channel that never varied divides nothing by 0.

    Yin et al. 2020 (equation 4) sum ||mean - running mean|| + ||var - running var||, so that layers weigh by the
    scale of their activations. This one knows no scale.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    values_CN = features.transpose(0, 1).flatten(1)
    known_var_C = layer.running_var + layer.eps
    ratio_C = (values_CN.var(dim=1) + layer.eps) / known_var_C
    shift_C = (values_CN.mean(dim=1) - layer.running_mean).square() / known_var_C
    return (shift_C + ratio_C - 1 - ratio_C.log()).mean()


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Mean squared difference of vertical plus that of horizontal neighbours; 0 for images of one pixel."""
    total = images_BCHW.new_zeros(())
    for axis in (2, 3):
        if images_BCHW.shape[axis] > 1:
            total = total + images_BCHW.diff(dim=axis).square().mean()
    return total


def remembering_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics, in the module's order.

    Raises:
        TechniqueError: there is none.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers:
        raise TechniqueError(
            f"the teacher, a {type(module).__name__}, has no batch norm with running statistics, and they are all that "
            "data-free distillation knows of the data; take a teacher that has some, or use distill_response"
        )
    return layers


@contextmanager
def norm_inputs(layers: list[_BatchNorm]) -> Iterator[dict[_BatchNorm, Tensor]]:
    """Catch what each layer takes in every forward pass inside the context."""
    seen: dict[_BatchNorm, Tensor] = {}

    def catch(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        seen[layer] = args[0]

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(catch).remove)
        yield seen
