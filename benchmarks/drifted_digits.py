"""Digits under a real shift of our own making: real scans and labels, as worse, tilted scanners would send them.

Each row is rotated by 20 degrees, its strokes are thickened (grey dilation over two pixels), and its contrast is cut to
60 %. Which rows drift is drawn by a seed; no row is in two of the parts.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.digits import digits
from tasks.techniques.technique import Arrays

_NUM_BASE, _NUM_LIVE = 1000, 550
_DEGREES = 20.0
_CONTRAST = 0.6
_STROKE = (1, 2, 2)


@dataclass(frozen=True)
class DriftedDigits:
    """The parts: x float32 [N, 1, 8, 8] in [0, 1], y int64 [N]."""

    base: Arrays
    """What the first champion is made from."""
    live: Arrays
    """Drifted; sent once as requests, with labels as feedback."""
    held_out: Arrays
    """Drifted; never sent before the last leg."""
    held_out_original: Arrays
    """The same rows as they were scanned."""


def drifted_digits(seed: int) -> DriftedDigits:
    """Divide the digits by a permutation and let all but the base drift."""
    rows = digits()
    order = np.random.default_rng(seed).permutation(len(rows.y))
    base, live, held_out = np.split(order, [_NUM_BASE, _NUM_BASE + _NUM_LIVE])
    return DriftedDigits(
        base=Arrays(rows.x[base], rows.y[base]),
        live=Arrays(drifted(rows.x[live]), rows.y[live]),
        held_out=Arrays(drifted(rows.x[held_out]), rows.y[held_out]),
        held_out_original=Arrays(rows.x[held_out], rows.y[held_out]),
    )


def drifted(x: np.ndarray) -> np.ndarray:
    """Rotate, thicken and pale rows [N, 1, 8, 8] in [0, 1]."""
    from scipy.ndimage import grey_dilation, rotate

    images = rotate(x[:, 0], _DEGREES, axes=(1, 2), reshape=False, order=1)
    images = grey_dilation(images, size=_STROKE)
    pale = 0.5 + (np.clip(images, 0, 1) - 0.5) * _CONTRAST
    return np.ascontiguousarray(pale[:, None], dtype=np.float32)
