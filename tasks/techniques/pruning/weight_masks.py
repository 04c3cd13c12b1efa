"""From scores to masks: which weights stay. What is hidden already stays hidden.

Dimension legend: O outputs of a layer, I inputs of one convolution group.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["global", "layer"]


def sparser_masks(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], sparsity: float, scope: Scope
) -> dict[str, Tensor]:
    """Return masks under which the share `sparsity` of the weights with the lowest scores is zero.

    Of equal scores the one that comes first in memory goes first, so that the share is exact and the
    result reproducible.

    Args:
        scores: of every weight of each layer.
        masks: bool, the present masks, True where a weight is kept; every layer of `scores` has one.
        sparsity: share of zeros, at least those of the present masks.
        scope: `layer` hides the share in each layer; `global` ranks the weights of all layers together.
    """
    if scope == "layer":
        return {path: _without_lowest(score, masks[path], sparsity) for path, score in scores.items()}
    joined = _without_lowest(
        torch.cat([score.flatten() for score in scores.values()]),
        torch.cat([masks[path].flatten() for path in scores]),
        sparsity,
    )
    parts = torch.split(joined, [score.numel() for score in scores.values()])
    return {path: part.view_as(scores[path]) for path, part in zip(scores, parts, strict=True)}


def n_of_m_mask(scores: Tensor, mask: Tensor, n: int, m: int) -> Tensor:
    """Return the mask that keeps at most the n best of each m consecutive inputs.

    The groups run along the axis of the inputs: along a row of a linear layer's weight [O, I], and at one
    position of the kernel of a convolution's [O, I, ...]. So they lie next to each other when the weight is
    stored as [O, kernel, I] for channels-last products, the layout of the sparse kernels of NVIDIA's
    libraries (Mishra et al. 2021, arXiv:2104.08378).

    Args:
        scores: [O, I, ...]; I is a multiple of m.
        mask: bool, the present mask, of the same shape.
        n: weights that stay of each group.
        m: size of a group.
    """
    ranked = scores.masked_fill(mask.logical_not(), -torch.inf).movedim(1, -1)
    groups_GM = ranked.reshape(-1, m)
    best = groups_GM.argsort(dim=1, descending=True, stable=True)[:, :n]
    kept_GM = torch.zeros_like(groups_GM, dtype=torch.bool).scatter_(1, best, True)
    return kept_GM.view(ranked.shape).movedim(-1, 1) & mask


def _without_lowest(scores: Tensor, mask: Tensor, sparsity: float) -> Tensor:
    ranked = scores.masked_fill(mask.logical_not(), -torch.inf).flatten()
    lowest = ranked.argsort(stable=True)[: round(sparsity * ranked.numel())]
    kept = mask.flatten().clone()
    kept[lowest] = False
    return kept.view_as(mask)
