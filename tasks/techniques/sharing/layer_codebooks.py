"""From a layer's weights to the codebook that training begins with.

Dimension legend: O output channels, G groups of channels, K centroids of a group.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contracts.errors import TechniqueError
from tasks.models.codebook import Codebook, contiguous_groups
from tasks.techniques.sharing.clustering import Initialisation, cluster


@dataclass(frozen=True)
class LayerSharing:
    """A layer's codebook, and how far it is from the weights."""

    codebook: Codebook
    squared_error: float
    """Summed squared difference of the decoded weights from the given ones."""
    energy: float
    """Summed squares of the given weights."""


def weight_of(layer: nn.Module) -> Tensor:
    """Return a layer's weight as it is in effect, under its mask if it has one."""
    weight = layer.weight
    assert isinstance(weight, Tensor), "the layers that are chosen have a weight"
    return weight


def share_layer(
    layer: nn.Module,
    *,
    num_centroids: int,
    num_groups: int,
    per_channel_scale: bool,
    initialisation: Initialisation,
    seed: int,
) -> LayerSharing:
    """Cluster the weights of a layer, group by group.

    Weights that are exactly zero, as under a mask, share a centroid that stays zero. With
    `per_channel_scale` each channel is divided by its greatest absolute weight first, and -1 and 1 stay
    centroids, so that the scale remains that weight. An embedding has no scales, since it is quantised
    as a whole.

    Raises:
        TechniqueError: a weight is not finite.
    """
    with torch.no_grad():
        weight = weight_of(layer).detach().cpu().numpy().astype(np.float32)
    if not np.isfinite(weight).all():
        raise TechniqueError(f"a {type(layer).__name__} has weights that are not finite; train the network anew")
    scaled = per_channel_scale and not isinstance(layer, nn.Embedding)
    scales_O = _greatest(weight) if scaled else None
    plain = weight if scales_O is None else weight / _over_channels(scales_O, weight)
    pinned = (-1.0, 0.0, 1.0) if scaled else (0.0,)
    groups_O = contiguous_groups(len(weight), num_groups)
    clusters = [
        cluster(plain[groups_O == group], num_centroids, initialisation=initialisation, seed=seed, pinned=pinned)
        for group in range(int(groups_O[-1]) + 1)
    ]
    book = Codebook(
        values_GK=np.stack([each.centroids_K for each in clusters]).astype(np.float32),
        indices=np.concatenate([each.labels for each in clusters]),
        groups_O=groups_O,
        scales_O=scales_O,
        pinned_GK=np.stack([each.pinned_K for each in clusters]),
    )
    error = float(((book.decoded().astype(np.float64) - weight) ** 2).sum())
    return LayerSharing(book, error, float((weight.astype(np.float64) ** 2).sum()))


def _greatest(weight: np.ndarray) -> np.ndarray:
    """Return the greatest absolute weight of each channel [O], 1 where all are zero."""
    greatest_O = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return np.where(greatest_O > 0, greatest_O, np.float32(1.0))


def _over_channels(per_channel_O: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return per_channel_O.reshape(-1, *[1] * (weight.ndim - 1))
