"""A weight as a product of thinner ones: the singular value decomposition, and Tucker-2 for convolutions.

Dimension legend: O outputs, I inputs, H and W the kernel's height and width, R rank, R_o and R_i the ranks
on the side of the outputs and of the inputs.
"""

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor, nn

ConvolutionForm = Literal["tucker2", "spatial"]
Ranks = tuple[int, ...]
"""(R,) for the forms with one rank, (R_i, R_o) for Tucker-2."""


@dataclass(frozen=True)
class Passes:
    """How many pixels or tokens of one row pass a layer; a stride makes its outputs fewer than its inputs."""

    inputs: int = 1
    halfway: int = 1
    """Pixels once the height is that of the outputs, and the width still that of the inputs."""
    outputs: int = 1


@dataclass(frozen=True)
class Decomposition:
    """One layer's weight, ready to be cut at any rank. All arithmetic is in float64."""

    layer: nn.Linear | nn.Conv2d

    @cached_property
    def _weight(self) -> Tensor:
        return self.layer.weight.detach().double()

    @property
    @abstractmethod
    def max_ranks(self) -> Ranks:
        """Ranks at which the decomposition is exact."""

    @abstractmethod
    def cost(self, ranks: Ranks, passes: Passes) -> int:
        """Count the multiply-adds of the layers that replace this one, without the bias."""

    def num_weights(self, ranks: Ranks) -> int:
        """Count the weights of the layers that replace this one; biases stay as they are."""
        return self.cost(ranks, Passes())

    @abstractmethod
    def residuals(self) -> Tensor:
        """Share of the squared norm of the weight that is lost at every rank, [R] or [R_i, R_o], from rank 1 up."""

    @abstractmethod
    def layers(self, ranks: Ranks) -> nn.Sequential:
        """Return the layers `first`, (`core`,) `last` that approximate this one best in the squared norm."""


class LinearSvd(Decomposition):
    """W = (U sqrt(S)) (sqrt(S) V^T), the best of its rank (Eckart & Young 1936); also for 1x1 convolutions."""

    @property
    def max_ranks(self) -> Ranks:
        """See `Decomposition.max_ranks`."""
        return (min(self.layer.weight.shape[:2]),)

    def cost(self, ranks: Ranks, passes: Passes) -> int:
        """R (O + I), at the outputs: a stride is the first layer's."""
        return ranks[0] * sum(self.layer.weight.shape[:2]) * passes.outputs

    def residuals(self) -> Tensor:
        """See `Decomposition.residuals`."""
        return _lost(self._svd[1].square())

    def layers(self, ranks: Ranks) -> nn.Sequential:
        """See `Decomposition.layers`."""
        first, last = _empty_pair(self.layer, ranks)
        u_OR, s_R, v_RI = _cut(self._svd, ranks[0])
        _fill(first, (s_R.sqrt()[:, None] * v_RI).reshape(first.weight.shape), None)
        _fill(last, (u_OR * s_R.sqrt()).reshape(last.weight.shape), self.layer.bias)
        return nn.Sequential(OrderedDict(first=first, last=last))

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        u, s, v = torch.linalg.svd(self._weight.flatten(1), full_matrices=False)
        return u, s, v


class SpatialSvd(Decomposition):
    """An H x W kernel as H x 1 and then 1 x W (Jaderberg et al. 2014, arXiv:1405.3866).

    The best pair is the singular value decomposition of the weight seen as a matrix [O W, I H].
    """

    layer: nn.Conv2d

    @property
    def max_ranks(self) -> Ranks:
        """See `Decomposition.max_ranks`."""
        num_outputs, num_inputs, height, width = self.layer.weight.shape
        return (min(num_outputs * width, num_inputs * height),)

    def cost(self, ranks: Ranks, passes: Passes) -> int:
        """R O W at the outputs and R I H halfway."""
        num_outputs, num_inputs, height, width = self.layer.weight.shape
        return ranks[0] * (num_outputs * width * passes.outputs + num_inputs * height * passes.halfway)

    def residuals(self) -> Tensor:
        """See `Decomposition.residuals`."""
        return _lost(self._svd[1].square())

    def layers(self, ranks: Ranks) -> nn.Sequential:
        """See `Decomposition.layers`."""
        num_outputs, num_inputs, height, width = self.layer.weight.shape
        first, last = _empty_spatial_pair(self.layer, ranks)
        u, s_R, v = _cut(self._svd, ranks[0])
        first_RIH = (s_R.sqrt()[:, None] * v).reshape(ranks[0], num_inputs, height)
        last_ORW = (u * s_R.sqrt()).reshape(num_outputs, width, ranks[0]).transpose(1, 2)
        _fill(first, first_RIH[..., None], None)
        _fill(last, last_ORW[:, :, None], self.layer.bias)
        return nn.Sequential(OrderedDict(first=first, last=last))

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        num_outputs, num_inputs, height, width = self.layer.weight.shape
        matrix = self._weight.permute(0, 3, 1, 2).reshape(num_outputs * width, num_inputs * height)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u, s, v


class Tucker2(Decomposition):
    """1x1 to R_i channels, the H x W kernel from R_i to R_o, 1x1 to O (Kim et al. 2016, arXiv:1511.06530).

    The factors are the leading singular vectors of the two unfoldings (the truncated higher-order SVD of
    De Lathauwer et al. 2000), whose squared error is at most twice the best one.
    """

    layer: nn.Conv2d

    @property
    def max_ranks(self) -> Ranks:
        """See `Decomposition.max_ranks`."""
        _, outputs, inputs = self._hosvd
        return inputs.shape[1], outputs.shape[1]

    def cost(self, ranks: Ranks, passes: Passes) -> int:
        """I R_i at the inputs, H W R_i R_o and R_o O at the outputs."""
        num_outputs, num_inputs, height, width = self.layer.weight.shape
        rank_in, rank_out = ranks
        at_outputs = height * width * rank_in * rank_out + rank_out * num_outputs
        return num_inputs * rank_in * passes.inputs + at_outputs * passes.outputs

    def residuals(self) -> Tensor:
        """See `Decomposition.residuals`; the factors are orthonormal, so that what is kept is the core's norm."""
        core, _, _ = self._hosvd
        kept = core.square().sum(dim=(2, 3)).cumsum(0).cumsum(1).T
        return (1 - kept / kept[-1, -1].clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(0)

    def layers(self, ranks: Ranks) -> nn.Sequential:
        """See `Decomposition.layers`."""
        rank_in, rank_out = ranks
        full_core, outputs, inputs = self._hosvd
        first, core, last = _empty_tucker(self.layer, ranks)
        _fill(first, inputs[:, :rank_in].T[..., None, None], None)
        _fill(core, full_core[:rank_out, :rank_in], None)
        _fill(last, outputs[:, :rank_out, None, None], self.layer.bias)
        return nn.Sequential(OrderedDict(first=first, core=core, last=last))

    @cached_property
    def _hosvd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the core [R_o, R_i, H, W] and the factors [O, R_o] and [I, R_i], uncut."""
        outputs = torch.linalg.svd(self._weight.flatten(1), full_matrices=False)[0]
        inputs = torch.linalg.svd(self._weight.transpose(0, 1).flatten(1), full_matrices=False)[0]
        return torch.einsum("oihw,or,is->rshw", self._weight, outputs, inputs), outputs, inputs


def decomposition_of(layer: nn.Module, form: ConvolutionForm) -> Decomposition | None:
    """Return how `layer` can be decomposed; None for grouped convolutions, whose kernels are thin already."""
    if isinstance(layer, nn.Linear):
        return LinearSvd(layer)
    if not isinstance(layer, nn.Conv2d) or layer.groups > 1 or isinstance(layer.padding, str):
        return None
    if layer.kernel_size == (1, 1):
        return LinearSvd(layer)
    return Tucker2(layer) if form == "tucker2" else SpatialSvd(layer)


def empty_layers(layer: nn.Module, form: ConvolutionForm, ranks: Ranks) -> nn.Sequential:
    """Return the layers that `Decomposition.layers` makes, with weights that are still to be loaded."""
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        parts: tuple[nn.Module, ...] = _empty_pair(layer, ranks)
    elif form == "tucker2":
        parts = _empty_tucker(cast(nn.Conv2d, layer), ranks)
    else:
        parts = _empty_spatial_pair(cast(nn.Conv2d, layer), ranks)
    names = ("first", "last") if len(parts) == 2 else ("first", "core", "last")
    return nn.Sequential(OrderedDict(zip(names, parts, strict=True)))


def _empty_pair(
    layer: nn.Linear | nn.Conv2d, ranks: Ranks
) -> tuple[nn.Linear, nn.Linear] | tuple[nn.Conv2d, nn.Conv2d]:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, ranks[0], bias=False), nn.Linear(ranks[0], layer.out_features, has_bias)
    # a 1x1 kernel with padding sees zeros at the border, and so does its first half; the stride saves most there
    stride, padding = cast(tuple[int, int], layer.stride), cast(tuple[int, int], layer.padding)
    first = nn.Conv2d(layer.in_channels, ranks[0], 1, stride, padding, bias=False)
    return first, nn.Conv2d(ranks[0], layer.out_channels, 1, bias=has_bias)


def _empty_spatial_pair(layer: nn.Conv2d, ranks: Ranks) -> tuple[nn.Conv2d, nn.Conv2d]:
    sides = list(
        zip(layer.kernel_size, layer.stride, cast(tuple[int, int], layer.padding), layer.dilation, strict=True)
    )
    (height, stride_h, padding_h, dilation_h), (width, stride_w, padding_w, dilation_w) = sides
    first = nn.Conv2d(
        layer.in_channels, ranks[0], (height, 1), (stride_h, 1), (padding_h, 0), (dilation_h, 1), bias=False
    )
    last = nn.Conv2d(
        ranks[0],
        layer.out_channels,
        (1, width),
        (1, stride_w),
        (0, padding_w),
        (1, dilation_w),
        bias=layer.bias is not None,
    )
    return first, last


def _empty_tucker(layer: nn.Conv2d, ranks: Ranks) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    rank_in, rank_out = ranks
    first = nn.Conv2d(layer.in_channels, rank_in, 1, bias=False)
    kernel, stride, padding, dilation = (
        cast(tuple[int, int], sides) for sides in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    core = nn.Conv2d(rank_in, rank_out, kernel, stride, padding, dilation, bias=False)
    return first, core, nn.Conv2d(rank_out, layer.out_channels, 1, bias=layer.bias is not None)


def _cut(svd: tuple[Tensor, Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    u, s, v = svd
    return u[:, :rank], s[:rank], v[:rank]


def _lost(energies_R: Tensor) -> Tensor:
    """Share of the sum that ranks 1, 2, ... leave out."""
    kept_R = energies_R.cumsum(0)
    return (1 - kept_R / kept_R[-1].clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(0)


def _fill(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            assert layer.bias is not None
            layer.bias.copy_(bias)
