"""Rows of the domain that nobody has labelled: the teacher's answers are all that is known of them.

Dimension legend: B rows of a batch, K outputs.
"""

from typing import TYPE_CHECKING

import numpy as np

from tasks.techniques.loss import Batch, Loss, is_labelled
from tasks.techniques.technique import Arrays, StageContext

if TYPE_CHECKING:
    from torch import Tensor


def training_rows(context: StageContext, *, use_unlabelled: bool) -> Arrays:
    """Return the train split, followed by the split `unlabelled` if it is wanted.

    Raises:
        DataError: the data set has no such split.
    """
    train = context.load_split("train")
    if not use_unlabelled:
        return train
    more = context.load_split("unlabelled")
    return Arrays(np.concatenate([train.x, more.x]), np.concatenate([train.y, more.y.astype(train.y.dtype)]))


def num_unlabelled(rows: Arrays) -> int:
    """Count the rows whose label is unknown."""
    import torch

    return int((~is_labelled(torch.from_numpy(rows.y))).sum())


def labelled_only(label_loss: Loss) -> Loss:
    """Return the loss that charges rows without a label nothing; it stays the mean over all rows of the batch.

    So every row has its own terms, and splitting a batch to save memory changes nothing. Of a blended row the
    part that has a label counts, with its share.

    Args:
        label_loss: the mean over the rows of a batch of labelled rows.
    """

    def against(outputs_BK: "Tensor", labels_B: "Tensor", batch: Batch) -> "Tensor":
        known_B = is_labelled(labels_B)
        if not known_B.any():
            return 0.0 * outputs_BK.sum()  # a zero that has a gradient
        labelled = Batch(batch.inputs[known_B], labels_B[known_B], batch.rows[known_B])
        return label_loss(outputs_BK[known_B], labelled) * known_B.double().mean().to(outputs_BK.dtype)

    def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
        own = against(outputs_BK, batch.labels, batch)
        if batch.partner_labels is None:
            return own
        return batch.own_share * own + (1 - batch.own_share) * against(outputs_BK, batch.partner_labels, batch)

    return loss
