"""Blockwise 4-bit numbers: a short run of weights shares one scale (and one zero point).

Symmetric: s = w_max / -8 with w_max the weight of largest magnitude, sign included, and
q = clip(round(w / s), -8, 7): that weight is met exactly and all 16 levels are used (onnxruntime's and llama.cpp's
rule). Asymmetric: s = (max - min) / 15 and z = round(-min / s) over a range widened to contain 0, and
q = clip(round(w / s) + z, 0, 15). In both, w = 0 stays exactly 0.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """Levels with what turns them back into weights."""

    levels: np.ndarray
    """Whole numbers, -8 to 7 (symmetric) or 0 to 15."""
    scales: np.ndarray
    """float32, with length 1 along the block axis."""
    zero_points: np.ndarray | None
    """Whole numbers 0 to 15, shaped like `scales`; None for symmetric blocks."""

    def decoded(self) -> np.ndarray:
        """Return the weights that a runtime sees."""
        zero_points = 0 if self.zero_points is None else self.zero_points.astype(np.float32)
        return np.asarray((self.levels.astype(np.float32) - zero_points) * self.scales)


def quantise_blocks(weights: np.ndarray, axis: int, *, symmetric: bool, half_scales: bool) -> Blocks:
    """Quantise float32 `weights` whose `axis` runs over the members of a block.

    Args:
        weights: any shape; every line along `axis` is one block.
        axis: of the block's members.
        symmetric: see the head of this module.
        half_scales: round the scales to float16 first, so that they can be stored so.
    """
    if symmetric:
        largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=axis, keepdims=True), axis)
        scales = _stored(largest / -8, half_scales)
        return Blocks(np.clip(np.round(weights / scales), -8, 7).astype(np.int8), scales, None)
    low, high = (
        np.minimum(weights.min(axis=axis, keepdims=True), 0),
        np.maximum(weights.max(axis=axis, keepdims=True), 0),
    )
    scales = _stored((high - low) / 15, half_scales)
    zero_points = np.clip(np.round(-low / scales), 0, 15).astype(np.uint8)
    levels = np.clip(np.round(weights / scales) + zero_points, 0, 15).astype(np.uint8)
    return Blocks(levels, scales, zero_points)


def block_length(num_weights: int, block_size: int) -> int:
    """Return the largest divisor of `num_weights` up to `block_size`, or all if that were under a quarter of it.

    So no block is padded; a row whose length has no such divisor has one scale.
    """
    divisor = max(length for length in range(1, min(block_size, num_weights) + 1) if num_weights % length == 0)
    return divisor if 4 * divisor >= block_size else num_weights


def _stored(scales: np.ndarray, half: bool) -> np.ndarray:
    """Round to the stored type; 1 stands for 0, of blocks that are all zero."""
    smallest_normal = float(np.finfo(np.float16).tiny)
    if half:
        scales = scales.astype(np.float16)
        scales = np.where(np.abs(scales) < smallest_normal, np.copysign(np.float16(smallest_normal), scales), scales)
    return np.where(scales == 0, np.float32(1), scales.astype(np.float32))
