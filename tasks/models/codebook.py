"""A weight that takes few values: a codebook, and for every weight the number of its entry.

Dimension legend: O channels of a weight, G groups of channels, K entries of a group's codebook.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Codebook:
    """weight[c, ...] = scales[c] * values[groups[c], indices[c, ...]], where c counts along `axis`."""

    values_GK: np.ndarray  # noqa: N815
    """float32 or int8."""
    indices: np.ndarray
    """uint8, of the weight's shape."""
    groups_O: np.ndarray  # noqa: N815
    """int64, the group of each channel."""
    scales_O: np.ndarray | None = None  # noqa: N815
    """float32, or None where every scale is 1."""
    pinned_GK: np.ndarray | None = None  # noqa: N815
    """bool, the entries that training leaves where they are; None for none."""
    axis: int = 0
    """Axis of the weight along which its channels lie."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.indices.shape

    def along_channels(self, per_channel_O: np.ndarray) -> np.ndarray:
        """Reshape one number per channel so that it broadcasts over the weight."""
        return per_channel_O.reshape([-1 if axis == self.axis else 1 for axis in range(self.indices.ndim)])

    def unscaled(self) -> np.ndarray:
        """Return the weight before its scales."""
        decoded: np.ndarray = self.values_GK[self.along_channels(self.groups_O), self.indices]
        return decoded

    def decoded(self) -> np.ndarray:
        """Return the weight."""
        return self.unscaled() if self.scales_O is None else self.unscaled() * self.along_channels(self.scales_O)

    def transposed(self) -> "Codebook":
        """Return the codebook of the transposed weight, for matrices."""
        return replace(self, indices=self.indices.T, axis=self.indices.ndim - 1 - self.axis)


def contiguous_groups(num_channels: int, num_groups: int) -> np.ndarray:
    """Split channels into `num_groups` near-equal runs, or into one per channel where there are fewer."""
    parts = min(num_groups, num_channels)
    return np.arange(num_channels, dtype=np.int64) * parts // num_channels
