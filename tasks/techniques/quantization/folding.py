"""Batch norms folded into the layers before them, as the deployed model has it.

In evaluation a batch norm is y = g (x - m) / sqrt(v + e) + b for each channel, so that with r =
g / sqrt(v + e) a convolution or linear layer before it takes the weights w r and the bias (c - m) r + b.
Quantised as two operations they would not run in int8 at all.
"""

from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from tasks.techniques.quantization.tracing import module_of, num_calls, rank

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ChannelAffine(nn.Module):
    """What remains of a batch norm with no layer before it: x r + t for each channel on axis 1."""

    scale: Tensor
    offset: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over the running statistics; scale and offset are trainable if the norm's were."""
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_C = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.detach())
        offset_C = (0.0 if norm.bias is None else norm.bias.detach()) - norm.running_mean * scale_C
        for name, values_C in (("scale", scale_C), ("offset", offset_C)):
            if norm.affine:
                self.register_parameter(name, nn.Parameter(values_C))
            else:
                self.register_buffer(name, values_C)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` [B, C, ...]."""
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * self.scale.reshape(shape) + self.offset.reshape(shape)


def fold_batch_norms(traced: fx.GraphModule) -> int:
    """Fold every batch norm that can be, freeze the others, in place; return how many were folded.

    The outputs in evaluation mode stay what they were, but for the rounding of float32. Batch norms
    without running statistics stay.
    """
    calls = num_calls(traced)
    num_folded = 0
    for node in list(traced.graph.nodes):
        norm = module_of(node)
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        (source,) = node.all_input_nodes
        if calls[str(node.target)] == 1 and _folds_into(source, calls):
            traced.set_submodule(str(source.target), _fused(cast(nn.Module, module_of(source)), norm))
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
            num_folded += 1
        else:
            traced.set_submodule(str(node.target), ChannelAffine(norm))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return num_folded


def _folds_into(source: fx.Node, calls: dict[str, int]) -> bool:
    """Tell whether `source` is a layer that nobody else uses, with its channels on axis 1."""
    layer = module_of(source)
    channels_first = isinstance(layer, _CONVOLUTIONS) or (isinstance(layer, nn.Linear) and rank(source) == 2)
    return channels_first and calls[str(source.target)] == 1 and len(source.users) == 1


def _fused(layer: nn.Module, norm: _BatchNorm) -> nn.Module:
    if isinstance(layer, nn.Linear):
        fused: nn.Module = fuse_linear_bn_eval(layer.eval(), norm.eval())
    else:
        fused = fuse_conv_bn_eval(cast(nn.Conv2d, layer.eval()), norm.eval())
    with torch.no_grad():
        for parameter in fused.parameters():  # torch leaves a bias that it had to add frozen
            parameter.requires_grad_(True)
    return fused
