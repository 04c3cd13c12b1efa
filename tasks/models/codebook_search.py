"""Finds the codebook of a weight that takes few values.

Dimension legend: O channels of a weight, N weights in each, G groups of channels, K entries of a codebook.
"""

import numpy as np

from tasks.models.codebook import Codebook

_SHORT, _LONG = 16, 256
"""Entries that 4-bit and 8-bit indices reach."""

_ROUNDING = 1e-6
"""Bound of the error, relative to a channel's largest weight, that folding a batch norm in float32 leaves."""


def codebook_of(values: np.ndarray, axis: int) -> Codebook | None:
    """Return the codebook that decodes to exactly `values` with the shortest indices, or None if there is none.

    One codebook of at most 16 entries is best; then groups of channels that have one of 16 each; then,
    for values longer than a byte, one of at most 256.

    Args:
        values: float32 or int8, of two axes or more.
        axis: where its output channels lie.
    """
    distinct, inverse = np.unique(values, return_inverse=True)
    if values.dtype.kind == "f" and not np.isfinite(distinct).all():
        return None
    codes = inverse.reshape(values.shape)
    whole = Codebook(distinct[None], codes.astype(np.uint8), np.zeros(values.shape[axis], np.int64), axis=axis)
    if len(distinct) <= _SHORT:
        return whole
    grouped = _grouped(distinct, np.moveaxis(codes, axis, 0), axis)
    fits_long = len(distinct) <= _LONG and values.dtype.itemsize > 1
    candidates = ([grouped] if grouped else []) + ([whole] if fits_long else [])
    return min(candidates, key=_num_bytes, default=None)


def rescaled(values: np.ndarray, book: Codebook) -> Codebook | None:
    """Return `book` with such scales that it decodes to `values` within float32 rounding, or None if none do.

    Args:
        values: float32.
        book: the codebook of this weight, or of its transpose, before its channels were multiplied.
    """
    if values.shape != book.shape and values.ndim == 2:
        book = book.transposed()
    if values.shape != book.shape:
        return None
    plain_ON, values_ON = (
        np.moveaxis(each, book.axis, 0).reshape(each.shape[book.axis], -1).astype(np.float64)
        for each in (book.unscaled(), values)
    )
    energy_O = (plain_ON**2).sum(axis=1)
    scales_O = (values_ON * plain_ON).sum(axis=1) / np.where(energy_O > 0, energy_O, 1.0)
    error_O = np.abs(values_ON - scales_O[:, None] * plain_ON).max(axis=1)
    if (error_O > _ROUNDING * np.abs(values_ON).max(axis=1)).any():
        return None
    scales = None if np.array_equal(plain_ON, values_ON) else scales_O.astype(np.float32)
    return Codebook(book.values_GK.astype(np.float32), book.indices, book.groups_O, scales, axis=book.axis)


def _grouped(distinct: np.ndarray, codes: np.ndarray, axis: int) -> Codebook | None:
    """Put each channel [O, ...] into the group whose entries it fits with the fewest new ones (greedy)."""
    entries: list[set[int]] = []
    groups_O = np.zeros(len(codes), np.int64)
    for channel, codes_N in enumerate(codes):
        own = set(np.unique(codes_N).tolist())
        if len(own) > _SHORT:
            return None
        sizes = [len(each | own) for each in entries]
        fitting = [(size - len(entries[group]), group) for group, size in enumerate(sizes) if size <= _SHORT]
        if not fitting:
            entries.append(set())
            fitting = [(0, len(entries) - 1)]
        groups_O[channel] = min(fitting)[1]
        entries[groups_O[channel]] |= own
    num_entries = max(map(len, entries))
    places_GK = np.array([sorted(each) + [max(each)] * (num_entries - len(each)) for each in entries])
    indices = np.stack([np.searchsorted(places_GK[g], codes_N) for g, codes_N in zip(groups_O, codes, strict=True)])
    moved = np.moveaxis(indices.astype(np.uint8), 0, axis)
    return Codebook(distinct[places_GK], moved, groups_O, axis=axis)


def _num_bytes(book: Codebook) -> float:
    """Return about what a codebook takes in a file."""
    num_groups, num_entries = book.values_GK.shape
    offsets = 4 * len(book.groups_O) if num_groups > 1 else 0
    return book.indices.size * (0.5 if num_entries <= _SHORT else 1.0) + book.values_GK.nbytes + offsets
