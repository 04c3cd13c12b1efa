"""The network as it will answer in int8, in torch: trained instead of the float one."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import TechniqueError
from tasks.models.masking import Masked, masks_of
from tasks.models.parametrizations import without_parametrizations
from tasks.techniques.inference import outputs_of
from tasks.techniques.quantization.fake_quantize import ActivationQuantizer, Observer, WeightQuantizer
from tasks.techniques.quantization.folding import fold_batch_norms
from tasks.techniques.quantization.placement import LAYERS, QuantizedLayer, place_quantizers
from tasks.techniques.quantization.tracing import trace
from tasks.techniques.targeting import select_layers

_BATCH_SIZE = 256
_INT32_MARGIN = 2.0**-30  # half of what an int32 bias can hold


@dataclass(frozen=True)
class Simulation:
    """A traced network with rounding in it, and which of its layers will run in int8."""

    module: fx.GraphModule
    layers: dict[str, QuantizedLayer]
    num_folded: int
    """Batch norms that went into the layers before them."""
    unreached: tuple[str, ...]
    """Chosen layers that the forward pass does not call as layers: they stay float."""

    def calibrate(self, x: np.ndarray) -> None:
        """Set the range of every rounded activation to the extremes that it takes on `x` [N, *input_shape]."""
        self._observe("extremes")
        outputs_of(self.module, torch.from_numpy(x), _BATCH_SIZE)
        self._observe("off")

    def observe_until(self, share: float) -> Callable[[int, int], None]:
        """Return a `before_step` that lets ranges and scales follow for this share of the steps, then freezes them."""

        def before_step(step: int, num_steps: int) -> None:
            following = step < share * num_steps
            self._observe("average" if following else "off")
            for quantizer in self._modules(WeightQuantizer):
                quantizer.observing = following

        return before_step

    def settle(self) -> None:
        """Raise the scale of channels that are nearly zero, so that their biases fit in int32 steps.

        A bias is stored in steps of s_x s_c. A channel of tiny weights and an ordinary bias, as folded
        batch norms leave them, would need more than int32 holds; rounding its weights more coarsely
        changes next to nothing.
        """
        self._observe("off")
        for path, placed in self.layers.items():
            layer = self.module.get_submodule(path)
            bias = getattr(layer, "bias", None)
            if placed.input_quantizer is None or bias is None:
                continue
            step = self._quantizer(placed.input_quantizer).scale
            weight_quantizer_of(layer).least_scale.copy_(bias.detach().abs() * _INT32_MARGIN / step)

    def _observe(self, observer: Observer) -> None:
        for quantizer in self._modules(ActivationQuantizer):
            quantizer.observer = observer

    def _quantizer(self, path: str) -> ActivationQuantizer:
        found = self.module.get_submodule(path)
        assert isinstance(found, ActivationQuantizer)
        return found

    def _modules(self, kind: type[Any]) -> list[Any]:
        return [module for module in self.module.modules() if isinstance(module, kind)]


def simulate(
    module: nn.Module,
    example: Tensor,
    *,
    targets: Sequence[str],
    ignore: Sequence[str],
    weight_bits: int,
    eight_bit: Sequence[str] = (),
    learn_scales: bool = False,
) -> Simulation:
    """Return a copy of `module` that rounds as int8 does; its activations are still to be calibrated.

    Masks stay in force, so that pruned weights stay zero; other parametrizations end here.

    Args:
        module: the float network.
        example: [B, *input_shape], B >= 2.
        targets: globs on the layers to quantise.
        ignore: globs on those of them that stay float.
        weight_bits: 8 or 4.
        eight_bit: globs on the layers whose weights have 8 bits in any case.
        learn_scales: whether the scales of weights below 8 bits are trained.

    Raises:
        TechniqueError: the network cannot be traced, a glob matches nothing, or no chosen layer is called.
    """
    traced = trace(without_parametrizations(copy.deepcopy(module).cpu()), example)
    chosen = select_layers(traced, LAYERS, targets, ignore)
    wide = set(select_layers(traced, LAYERS, eight_bit, ())) if eight_bit else set()
    num_folded = fold_batch_norms(traced)
    layers = place_quantizers(traced, chosen)
    if not layers:
        raise TechniqueError(
            f"forward() of {type(module).__name__} calls none of the layers {', '.join(chosen)} as a layer; "
            "quantize_aware cannot round what enters them. Use quantize_static"
        )
    _keep_zeros(traced, masks_of(module))
    for path in layers:
        bits = 8 if path in wide else weight_bits
        _quantize_weights(traced.get_submodule(path), bits, learn_scales=learn_scales and bits < 8)
    return Simulation(traced, layers, num_folded, tuple(path for path in chosen if path not in layers))


def weight_quantizer_of(layer: nn.Module) -> WeightQuantizer:
    """Return the quantizer of a layer's weights."""
    quantizer = layer.parametrizations.weight[-1]  # type: ignore[union-attr, index]
    assert isinstance(quantizer, WeightQuantizer)
    return quantizer


def _keep_zeros(traced: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put the masks of the float network on the layers of the traced one; folding has only rescaled their weights."""
    paths = {path for path, _ in traced.named_modules()}
    for path in masks.keys() & paths:
        masked = Masked(masks[path].shape)
        masked.mask.copy_(masks[path])
        parametrize.register_parametrization(traced.get_submodule(path), "weight", masked)


def _quantize_weights(layer: nn.Module, bits: int, *, learn_scales: bool) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    quantizer = WeightQuantizer(weight, bits, learn_scales=learn_scales)
    parametrize.register_parametrization(layer, "weight", quantizer)
