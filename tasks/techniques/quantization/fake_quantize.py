"""Modules that round as int8 does but stay differentiable: the simulated network trains with its rounding errors.

Rounding has no useful gradient, so that of the identity is taken for it inside the representable range
and 0 outside (the straight-through estimator, Bengio et al. 2013, arXiv:1308.3432). Dimension legend:
C output channels, rows of an embedding; S scales.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

ACTIVATION_LEVELS = 255
_AVERAGING_SHARE = 0.01  # of the newest batch in the moving average of the extremes
_SMALLEST_SCALE = torch.finfo(torch.float32).eps
_CLIPPING_RATIOS = tuple(0.40 + 0.025 * step for step in range(25))

Observer = Literal["off", "extremes", "average"]


class ActivationQuantizer(nn.Module):
    """x -> s (clip(round(x / s) + z, 0, 255) - z), s = (high - low) / 255, z = round(-low / s).

    The range [low, high] always contains 0, so that zero padding and ReLU are exact. It is set by
    observation: over the calibration rows as the extremes, while training as a moving average of the
    batches' extremes.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.observer: Observer = "off"
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))

    @property
    def scale(self) -> Tensor:
        """Return s, a float32 scalar."""
        return ((self.high - self.low) / ACTIVATION_LEVELS).clamp_min(_SMALLEST_SCALE)

    @property
    def zero_point(self) -> Tensor:
        """Return z, an int32 scalar in [0, 255]."""
        return (-self.low / self.scale).round().clamp(0, ACTIVATION_LEVELS).to(torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, rounded unless the extremes are being collected."""
        if self.observer == "extremes":
            self._widen(x.detach())
            return x
        if self.observer == "average" and self.training:
            self._average(x.detach())
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, ACTIVATION_LEVELS)

    def _widen(self, x: Tensor) -> None:
        low, high = x.aminmax()
        self.low.copy_(torch.minimum(self.low, low))
        self.high.copy_(torch.maximum(self.high, high))

    def _average(self, x: Tensor) -> None:
        low, high = x.aminmax()
        self.low.lerp_(low.clamp(max=0), _AVERAGING_SHARE)
        self.high.lerp_(high.clamp(min=0), _AVERAGING_SHARE)


class OnGrid(nn.Module):
    """Marks a value that an operation only moved, so that it is quantised as its source already.

    The simulation has nothing to do; the exported graph says it again, because onnxruntime keeps an
    operation in int8 only if both sides are quantised.
    """

    def __init__(self, quantizer: str) -> None:
        super().__init__()
        self.quantizer = quantizer
        """Path of the `ActivationQuantizer` of the source."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class WeightQuantizer(nn.Module):
    """A parametrization: w -> s_c clip(round(w / s_c), -q, q) with q = 2^(bits - 1) - 1 and a scale for each channel.

    The scales follow the weights while `observing`, or are learned, in which case they start from what
    the weights say.
    """

    log_scale: nn.Parameter | None
    fixed_scale: Tensor
    zero_points: Tensor
    least_scale: Tensor

    def __init__(self, weight: Tensor, bits: int, *, learn_scales: bool = False) -> None:
        """Take the first scales from `weight` [C, ...]."""
        super().__init__()
        self.bits = bits
        self.limit = 2 ** (bits - 1) - 1
        self.observing = False
        first_C = channel_scales(weight.detach(), bits)
        self.log_scale = nn.Parameter(first_C.log()) if learn_scales else None  # stays positive in any step
        self.register_buffer("fixed_scale", None if learn_scales else first_C)
        self.register_buffer("zero_points", torch.zeros(len(first_C), dtype=torch.int32), persistent=False)
        self.register_buffer("least_scale", torch.full_like(first_C, _SMALLEST_SCALE))

    @property
    def scale(self) -> Tensor:
        """Return s, float32 [C]."""
        scale_C = self.fixed_scale if self.log_scale is None else self.log_scale.exp()
        return torch.maximum(scale_C, self.least_scale)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weights."""
        if self.log_scale is not None:
            return learned_step(weight, self.scale, self.limit)
        if self.observing and self.training:
            self.fixed_scale.copy_(channel_scales(weight.detach(), self.bits))
        scale_C = self.scale
        return torch.fake_quantize_per_channel_affine(weight, scale_C, self.zero_points, 0, -self.limit, self.limit)

    def codes(self, weight: Tensor) -> Tensor:
        """Return the integers of the rounded weights, int8 of the weight's shape; `weight` may be rounded already."""
        return (weight / _per_channel(self.scale, weight)).round().clamp(-self.limit, self.limit).to(torch.int8)


def channel_scales(weight: Tensor, bits: int) -> Tensor:
    """Return the scale [C] of each channel of `weight` [C, ...]: max|w| / q at 8 bits, of least squared error below.

    With few levels the rounding of many small weights costs more than the clipping of a few large ones.
    """
    limit = 2 ** (bits - 1) - 1
    weight_CN = weight.reshape(len(weight), -1).float()
    largest_C: Tensor = (weight_CN.abs().amax(dim=1) / limit).clamp_min(_SMALLEST_SCALE)
    if bits >= 8:
        return largest_C
    ratios_S = torch.tensor(_CLIPPING_RATIOS, device=weight.device)
    errors_SC = torch.stack([_squared_error(weight_CN, largest_C * ratio, limit) for ratio in ratios_S])
    best_C: Tensor = (largest_C * ratios_S[errors_SC.argmin(dim=0)]).clamp_min(_SMALLEST_SCALE)
    return best_C


def _squared_error(weight_CN: Tensor, scale_C: Tensor, limit: int) -> Tensor:
    codes_CN = (weight_CN / scale_C[:, None]).round().clamp(-limit, limit)
    return (codes_CN * scale_C[:, None] - weight_CN).square().sum(dim=1)


def learned_step(weight: Tensor, scale_C: Tensor, limit: int) -> Tensor:
    """Round `weight` [C, ...] with a gradient for the scales too (LSQ, Esser et al. 2020, arXiv:1902.08153).

    With v = w / s the rounded weight w' = s round(clip(v, -q, q)) has the gradients dw'/dw = 1 for
    |v| < q, else 0, and dw'/ds = round(v) - v for |v| < q, else sign(v) q. The latter is multiplied by
    1 / sqrt(n q), n being the weights that share the scale, so that scales move as fast as weights.
    """
    share = 1 / math.sqrt(max(weight[0].numel(), 1) * limit)
    damped_C = scale_C.detach() + (scale_C - scale_C.detach()) * share
    scale = _per_channel(damped_C, weight)
    ratio = (weight / scale).clamp(-limit, limit)
    return (ratio + (ratio.round() - ratio).detach()) * scale


def _per_channel(values_C: Tensor, weight: Tensor) -> Tensor:
    return values_C.reshape(-1, *(1,) * (weight.ndim - 1))
