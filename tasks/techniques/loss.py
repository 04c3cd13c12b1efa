"""What a loss sees of a batch, and the loss against labels.

Dimension legend: B rows of a batch, K outputs of the network.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from tasks.contracts.data import Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a loss may look at besides the network's outputs."""

    inputs: "Tensor"
    """[B, *input_shape], as the network saw them: augmented."""
    labels: "Tensor"
    """[B], int64 classes or float32 targets."""
    rows: "Tensor"
    """[B], int64 positions in the split, for targets that were computed per row beforehand."""
    partner_labels: "Tensor | None" = None
    """[B], labels of the rows that were blended in; None where nothing was."""
    own_share: float = 1.0
    """Share of each row itself in its blend."""
    views: "Tensor | None" = None
    """[B], which of the row's `num_views` views this is; None where each view is new."""

    def part(self, rows: slice) -> "Batch":
        """Return some of the rows."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value[rows] if hasattr(value, "shape") else value for name, value in columns.items()})


Loss = Callable[["Tensor", Batch], "Tensor"]
"""From the network's outputs [B, K] and their batch to the scalar mean over the batch's rows."""


def label_loss(task: Task, label_smoothing: float = 0.0) -> Loss:
    """Return the loss against labels: cross-entropy for classes, mean squared error for regression.

    Of a blended row it is the blend of the losses against both labels, with the rows' shares.
    """
    from torch.nn import functional

    def against(outputs_BK: "Tensor", labels_B: "Tensor") -> "Tensor":
        if task == "classification":
            return functional.cross_entropy(outputs_BK, labels_B, label_smoothing=label_smoothing)
        return functional.mse_loss(outputs_BK.squeeze(1), labels_B)

    def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
        own = against(outputs_BK, batch.labels)
        if batch.partner_labels is None:
            return own
        return batch.own_share * own + (1 - batch.own_share) * against(outputs_BK, batch.partner_labels)

    return loss


def is_labelled(labels_B: "Tensor") -> "Tensor":
    """Tell for each label whether it is known, [B] bool: the split `unlabelled` has -1, or NaN for regression."""
    return ~labels_B.isnan() if labels_B.is_floating_point() else labels_B >= 0
