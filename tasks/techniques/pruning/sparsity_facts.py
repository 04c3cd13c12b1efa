"""What is worth showing of a network with zeros, and the layers whose weights can be masked."""

import copy

import torch
from torch import nn

from tasks.models.masking import masks_of
from tasks.models.parametrizations import without_parametrizations

MASKABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that multiply by a weight [O, I, ...]. Embeddings, norms and biases are left alone."""

DENSE_NOTE = (
    "zeros shrink the file only where it is stored compressed (size_zip_bytes) and do not speed up dense kernels"
)


def sparsity_of(module: nn.Module, paths: list[str]) -> float:
    """Return the share of hidden weights of the layers at `paths`, all of which have masks."""
    masks = masks_of(module)
    num_kept = sum(int(masks[path].sum()) for path in paths)
    return 1 - num_kept / sum(masks[path].numel() for path in paths)


def sparsity_facts(module: nn.Module, paths: list[str]) -> dict[str, float | int | str]:
    """Return sparsity over all and of each masked layer, and the parameters that are not zero."""
    plain = without_parametrizations(copy.deepcopy(module))
    parameters = list(plain.parameters())
    return {
        "sparsity": sparsity_of(module, paths),
        "sparsity_by_layer": ", ".join(f"{path} {sparsity_of(module, [path]):.1%}" for path in paths),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "parameters_nonzero": sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
        "note": DENSE_NOTE,
    }
