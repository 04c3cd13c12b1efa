"""What each layer weighs: how often a row passes it, and how much the loss suffers when it is approximated."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tasks.techniques.factorization.decompositions import Decomposition, Passes
from tasks.techniques.factorization.ranks import RankOptions
from tasks.techniques.factorization.surgery import replace_layer
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.technique import Arrays, StageContext

_BATCH_SIZE = 256
_SMALLEST = 1e-9
"""Increase of the loss that a layer has at least: approximations that happen to help are not free."""


def count_passes(module: nn.Module, paths: list[str], example: Tensor) -> dict[str, Passes]:
    """Return how many pixels or tokens of one row pass each layer; of a layer that is used twice, the last time.

    Args:
        module: the network, left as it is.
        paths: of linear layers and convolutions.
        example: rows [B, *input_shape].
    """
    counted = dict.fromkeys(paths, Passes(0, 0, 0))

    def count(path: str, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            (height, width), (new_height, new_width) = inputs.shape[2:], output.shape[2:]
            counted[path] = Passes(height * width, new_height * width, new_height * new_width)
        else:
            tokens = output.numel() // (len(example) * output.shape[-1])
            counted[path] = Passes(tokens, tokens, tokens)

    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda layer, inputs, output, path=path: count(path, layer, inputs[0], output)
        )
        for path in paths
    ]
    try:
        outputs_of(module, example, len(example))
    finally:
        for handle in handles:
            handle.remove()
    return counted


def sensitivities(
    module: nn.Module,
    decompositions: Mapping[str, Decomposition],
    options: Mapping[str, RankOptions],
    context: StageContext,
) -> dict[str, float]:
    """Measure on the calibration split how much the loss rises for each unit of a layer's residual.

    Each layer is approximated alone, at the ranks whose cost is nearest to half of its own; a layer that has no
    ranks to choose from has the sensitivity 0.
    """
    split = context.load_split("calibration")
    before = _mean_loss(module, split, context)
    measured: dict[str, float] = {}
    for path, decomposition in decompositions.items():
        one = options[path]
        if not one.ranks:
            measured[path] = 0.0
            continue
        position = int(abs(one.cost_C - one.whole_cost / 2).argmin())
        replace_layer(module, path, decomposition.layers(one.ranks[position]))
        rise = _mean_loss(module, split, context) - before
        module.set_submodule(path, decomposition.layer)
        measured[path] = max(rise, _SMALLEST) / max(float(one.residual_C[position]), _SMALLEST)
    return measured


def _mean_loss(module: nn.Module, split: Arrays, context: StageContext) -> float:
    limit = context.micro_batch_limit or _BATCH_SIZE
    inputs, labels_N = torch.from_numpy(split.x), torch.from_numpy(split.y)
    outputs_NK = outputs_of(module, inputs, limit)
    return float(label_loss(context.task)(outputs_NK, Batch(inputs, labels_N, torch.arange(len(labels_N)))))
