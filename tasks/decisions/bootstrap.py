"""The paired bootstrap: seeded resampling of positions, the same for both models."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

_CHUNK_CELLS = 4_000_000
"""Largest index matrix held at once: 32 MB."""


def resampled_positions(
    num_samples: int, num_resamples: int, seed: int, block_length: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield matrices [R_i, num_samples] of drawn positions, with the R_i adding up to `num_resamples`.

    With `block_length` above 1 it is the circular block bootstrap (Politis & Romano 1992): runs of that many
    neighbours are drawn together, which keeps their correlation.
    """
    generator = np.random.default_rng(seed)
    num_blocks = -(-num_samples // block_length)
    rows_at_once = max(1, _CHUNK_CELLS // max(num_samples, 1))
    for start in range(0, num_resamples, rows_at_once):
        rows = min(rows_at_once, num_resamples - start)
        firsts = generator.integers(0, num_samples, size=(rows, num_blocks, 1))
        positions = (firsts + np.arange(block_length)) % num_samples
        yield positions.reshape(rows, -1)[:, :num_samples]


def resampled_means(losses: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Return [L, R]: the mean of each of the L rows of `losses` [L, N] in R resamples of N, the same ones for all L."""
    parts = [
        np.stack([loss[positions].mean(axis=1) for loss in losses])
        for positions in resampled_positions(losses.shape[1], num_resamples, seed)
    ]
    return np.concatenate(parts, axis=1)


def samples_to_settle(
    num_samples: int, standard_error: float, distance: float, alpha: float, power: float
) -> int | None:
    """Return the samples with which an estimate so far from its limit is told from it, or None if none are enough.

    The standard error shrinks with the root of the sample size; it must fall to |distance| / (z_alpha + z_power).

    Args:
        num_samples: samples now, too few to settle it.
        standard_error: of the estimate now.
        distance: limit minus estimate, in the same unit.
        alpha: one-sided error rate.
        power: probability with which that many samples would settle it.
    """
    if math.isclose(distance, 0.0, abs_tol=1e-12):
        return None
    wanted = abs(distance) / float(ndtri(1.0 - alpha) + ndtri(power))
    return max(num_samples + 1, math.ceil(num_samples * (standard_error / wanted) ** 2))
