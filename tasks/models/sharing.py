"""Layers whose weights share few values: a parametrization whose trained parameter is the codebook.

Dimension legend: O output channels of a layer, G groups of channels, K entries of a group's codebook.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Surgery
from tasks.models.architecture import Network, surgery
from tasks.models.codebook import Codebook, contiguous_groups
from tasks.models.parametrizations import without_parametrizations

INT8_STEPS = 127
"""Entries under a scale lie on multiples of 1/127, so that symmetric int8 with that scale changes nothing."""

_SURGERY = "tasks.models.sharing:insert_codebooks"


class SharedWeight(nn.Module):
    """weight = codebook[group, index], or |scale_c| * codebook[group, index] for each output channel c.

    The codebook [G, K] takes the place of the weight as the layer's parameter, so that the gradient of
    an entry is the sum of the gradients of its weights (Han et al. 2016, arXiv:1510.00149, section 3.3).
    Pinned entries keep their value and have no gradient. Under scales, entries are rounded to multiples
    of 1/127 with a straight-through gradient.
    """

    indices: Tensor
    """uint8, of the weight's shape."""
    groups: Tensor
    """int32 [O]."""
    pinned: Tensor
    """bool [G, K]."""
    anchors: Tensor
    """float32 [G, K], the values of pinned entries."""

    def __init__(self, shape: torch.Size, num_groups: int, num_centroids: int, per_channel_scale: bool) -> None:
        super().__init__()
        groups_O = torch.from_numpy(contiguous_groups(shape[0], num_groups)).to(torch.int32)
        book = (int(groups_O.max()) + 1, num_centroids)
        self.register_buffer("indices", torch.zeros(shape, dtype=torch.uint8))
        self.register_buffer("groups", groups_O)
        self.register_buffer("pinned", torch.zeros(book, dtype=torch.bool))
        self.register_buffer("anchors", torch.zeros(book))
        self.scales = nn.Parameter(torch.ones(shape[0])) if per_channel_scale else None

    def forward(self, codebook_GK: Tensor) -> Tensor:
        """Decode the weight."""
        # index_select has a fast and reproducible backward pass, which plain indexing has not
        weight = self.values(codebook_GK).reshape(-1).index_select(0, self._entries()).view(self.indices.shape)
        return weight if self.scales is None else weight * self._over_channels(self.scales.abs())

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the codebook [G, K] nearest to `weight` with the present indices: the mean of each entry's weights."""
        if self.scales is not None:
            weight = weight / self._over_channels(self.scales.detach().abs())
        entries, (num_groups, num_centroids) = self._entries().long(), self.pinned.shape
        sums = torch.bincount(entries, weight.detach().reshape(-1).double(), num_groups * num_centroids)
        counts = torch.bincount(entries, minlength=num_groups * num_centroids).clamp(min=1)
        return (sums / counts).to(weight.dtype).view(num_groups, num_centroids)

    def values(self, codebook_GK: Tensor) -> Tensor:
        """Return the entries [G, K] as the weights take them, before the scales."""
        values_GK = torch.where(self.pinned, self.anchors, codebook_GK)
        if self.scales is None:
            return values_GK
        on_grid: Tensor = _OnInt8Grid.apply(values_GK.clamp(-1, 1))  # type: ignore[no-untyped-call]
        return on_grid

    def _entries(self) -> Tensor:
        """Return the position of every weight's entry in the flattened codebook, [number of weights]."""
        indices = self.indices.int()
        if len(self.pinned) > 1:
            indices = indices + self._over_channels(self.groups) * self.pinned.shape[1]
        return indices.reshape(-1)

    def _over_channels(self, per_channel_O: Tensor) -> Tensor:
        return per_channel_O.view(-1, *[1] * (self.indices.ndim - 1))


class _OnInt8Grid(torch.autograd.Function):
    """Round to multiples of 1/127; the gradient passes as if nothing was rounded."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return (values * INT8_STEPS).round() / INT8_STEPS

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@surgery
def insert_codebooks(module: nn.Module, layers: dict[str, list[int]], scaled: list[str]) -> nn.Module:
    """Let the weights of some layers be decoded from codebooks, which hold zeros until weights are loaded.

    Masks and other parametrizations that a weight has already are applied to the decoded weight; an
    older codebook is replaced.

    Args:
        module: the network; it is changed in place.
        layers: for each path of a layer, the number of groups and of centroids.
        scaled: paths of the layers that have a scale for each output channel.

    Returns:
        `module`.

    Raises:
        ModelError: a path names no layer with a weight, or the numbers are out of range.
    """
    for path, numbers in layers.items():
        layer, weight = _layer_at(module, path)
        if len(numbers) != 2 or not 1 <= numbers[0] <= len(weight) or not 2 <= numbers[1] <= 256:
            raise ModelError(
                f"insert_codebooks: {path!r} has {len(weight)} channels, so it needs [groups, centroids] from 1 to "
                f"{len(weight)} and from 2 to 256, not {numbers}"
            )
        shared = SharedWeight(weight.shape, numbers[0], numbers[1], path in scaled)
        _put_first(layer, shared.to(weight.device))
    return module


def with_codebooks(network: Network, codebooks: Mapping[str, Codebook]) -> Network:
    """Return the network with the weights of the layers at these paths decoded from these codebooks.

    Groups must be `contiguous_groups`. `network.module` is changed in place.

    Raises:
        ModelError: see `insert_codebooks`.
    """
    arguments: dict[str, Any] = {
        "layers": {path: list(book.values_GK.shape) for path, book in codebooks.items()},
        "scaled": sorted(path for path, book in codebooks.items() if book.scales_O is not None),
    }
    module = insert_codebooks(network.module, **arguments)
    for path, book in codebooks.items():
        _load(module.get_submodule(path), book)
    return network.with_surgery(Surgery(function=_SURGERY, arguments=arguments), module)


def codebooks_of(module: nn.Module) -> dict[str, Codebook]:
    """Return the codebooks of all layers that have one, by path."""
    books = {}
    for path, layer in module.named_modules():
        if (shared := _sharing(layer)) is not None:
            with torch.no_grad():
                values_GK = shared.values(layer.parametrizations.weight.original)
            books[path] = Codebook(
                values_GK=_array(values_GK),
                indices=_array(shared.indices),
                groups_O=_array(shared.groups).astype(np.int64),
                scales_O=None if shared.scales is None else np.abs(_array(shared.scales)),
                pinned_GK=_array(shared.pinned),
            )
    return books


def _layer_at(module: nn.Module, path: str) -> tuple[nn.Module, Tensor]:
    """Return the layer and its weight."""
    try:
        layer = module.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"insert_codebooks: the network has no layer {path!r} ({error})") from error
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ModelError(f"insert_codebooks: {path!r}, a {type(layer).__name__}, has no weight")
    return layer, weight


def _sharing(layer: nn.Module) -> SharedWeight | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    first = layer.parametrizations.weight[0]  # type: ignore[union-attr,index]
    return first if isinstance(first, SharedWeight) else None


def _put_first(layer: nn.Module, shared: SharedWeight) -> None:
    """Register `shared` beneath the parametrizations that the weight has, in place of an older codebook."""
    others: list[nn.Module] = []
    if parametrize.is_parametrized(layer, "weight"):
        chain = layer.parametrizations.weight  # type: ignore[union-attr]
        others = [each for each in chain if not isinstance(each, SharedWeight)]  # type: ignore[union-attr]
        without_parametrizations(layer)
    for each in (shared, *others):
        parametrize.register_parametrization(layer, "weight", each)


def _load(layer: nn.Module, book: Codebook) -> None:
    shared = _sharing(layer)
    assert shared is not None, "insert_codebooks has put it there"
    values_GK = torch.from_numpy(book.values_GK)
    with torch.no_grad():
        shared.indices.copy_(torch.from_numpy(book.indices))
        if book.pinned_GK is not None:
            shared.pinned.copy_(torch.from_numpy(book.pinned_GK))
            shared.anchors.copy_(torch.where(torch.from_numpy(book.pinned_GK), values_GK, 0.0))
        if shared.scales is not None and book.scales_O is not None:
            shared.scales.copy_(torch.from_numpy(book.scales_O))
        layer.parametrizations.weight.original.copy_(values_GK)  # type: ignore[union-attr,operator]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy().copy()
