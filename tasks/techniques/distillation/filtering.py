"""Leaving out the soft term where the teacher is unsure or wrong, and counting where that was.

Dimension legend: B rows of a batch, K outputs.
"""

from typing import cast

import torch
from torch import Tensor, nn

from tasks.techniques.loss import Batch, is_labelled


def trusted_rows(teacher_BK: Tensor, batch: Batch, min_confidence: float, *, only_where_right: bool) -> Tensor:
    """Tell for each row whether the teacher's answer is to be learned, [B] bool.

    Args:
        teacher_BK: the teacher's logits for the view that the student sees.
        batch: gives the labels.
        min_confidence: least probability of the teacher's first class, at temperature 1.
        only_where_right: whether that class must be the row's label as well. Of a blended row either label
            will do; a row without a label cannot be judged, and passes.
    """
    confidence_B, first_B = teacher_BK.softmax(dim=1).max(dim=1)
    trusted_B = confidence_B >= min_confidence
    if not only_where_right:
        return trusted_B
    right_B = (first_B == batch.labels) | ~is_labelled(batch.labels)
    if batch.partner_labels is not None:
        right_B = right_B | (first_B == batch.partner_labels) | ~is_labelled(batch.partner_labels)
    return trusted_B & right_B


class CountedStudent(nn.Module):
    """A student and, in buffers, how often the soft term was left out.

    `fit` trains this wrapper, so that its checkpoints carry the counts and a resumed run ends with the same.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.num_seen: Tensor
        self.num_left_out: Tensor
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_left_out", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the student's outputs [B, K]."""
        return cast(Tensor, self.student(inputs))

    def count(self, trusted_B: Tensor) -> None:
        """Add the rows of one batch."""
        self.num_seen += len(trusted_B)
        self.num_left_out += (~trusted_B).sum()

    @property
    def share_left_out(self) -> float:
        """Rows without a soft term, as a share of all that the training saw."""
        return int(self.num_left_out) / max(1, int(self.num_seen))
