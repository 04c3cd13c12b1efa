"""Response distillation: a student learns the baseline's softened outputs beside the labels.

Dimension legend: N rows of the train split, B rows of a batch, K outputs.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from tasks.contracts.model import Architecture, ModelFormat
from tasks.techniques.distillation.student import make_student, student_facts
from tasks.techniques.distillation.teacher import INFERENCE_BATCH, verified_teacher
from tasks.techniques.technique import ALL_INVARIANTS, Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import Batch, Loss, Schedule, device_for, fit, label_loss

if TYPE_CHECKING:
    from torch import Tensor, nn


class DistillResponse(TechniqueSpec):
    """L = w CE(y, s) + (1 - w) T^2 KL(softmax(t / T) || softmax(s / T)), Hinton et al. 2015 (arXiv:1503.02531).

    y are the labels, s and t the logits of student and teacher, w is `label_weight` and T is
    `temperature`. T^2 keeps the gradient of the soft term at one size for all T. Both terms are means
    over the rows. For regression the terms are MSE(y, s) and MSE(t, s), and T has no effect.
    """

    summary: ClassVar[str] = "Train a small student on the baseline's softened outputs and the labels."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS

    kind: Literal["distill_response"] = "distill_response"
    student: Architecture | None = Field(
        default=None, description="What to train from scratch; without it the incoming model itself goes on learning."
    )
    temperature: float = Field(
        default=4.0, gt=0, le=100, description="Divides all logits in the soft term; 3 to 5 is usual."
    )
    label_weight: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the label loss; the teacher's term has the rest."
    )
    teacher_floor: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Least accuracy (R2 for regression) of the teacher on the calibration split. "
        "A teacher no better than a constant guess is refused in any case.",
    )
    schedule: Schedule = Field(default=Schedule(), description="How long and how fast the student trains.")

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`."""
        return self.schedule.epochs

    @property
    def starts_over(self) -> bool:
        """See `TechniqueSpec.starts_over`."""
        return self.student is not None

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train the student; `model` is the student itself if no architecture is given, otherwise unused.

        Raises:
            TechniqueError: the teacher is below its floor, the student's outputs do not fit, or training diverged.
        """
        device = device_for(self.resources.num_gpus)
        teacher = verified_teacher(context.load_baseline(), context, self.teacher_floor, device)
        student = make_student(self.student, model, context)
        train = context.load_split("train")
        loss = self._loss(teacher.module, train.x, context, device)
        fit(student.module, train, loss, self.schedule, context, device=device)
        return Applied(student.to_bytes(), student_facts(teacher, student.module, context))

    def _loss(self, teacher: "nn.Module", inputs: np.ndarray, context: StageContext, device: str) -> Loss:
        """Return the loss of the class docstring.

        Under augmentation the teacher sees the very view that the student sees (Beyer et al. 2022,
        arXiv:2106.05237); otherwise it answers once for every row.
        """
        import torch
        from torch.nn import functional

        from tasks.techniques.inference import outputs_of

        hard = label_loss(context.task, self.schedule.label_smoothing)
        limit = context.micro_batch_limit or INFERENCE_BATCH
        if self.schedule.augmentation.is_identity:
            known_NK = outputs_of(teacher, torch.from_numpy(inputs).to(device), limit)

        def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
            if self.schedule.augmentation.is_identity:
                teacher_BK = known_NK[batch.rows]
            else:
                teacher_BK = outputs_of(teacher, batch.inputs, limit)
            if context.task == "classification":
                soft = softened_divergence(outputs_BK, teacher_BK, self.temperature)
            else:
                soft = functional.mse_loss(outputs_BK, teacher_BK)
            return self.label_weight * hard(outputs_BK, batch) + (1 - self.label_weight) * soft

        return loss


def softened_divergence(student_BK: "Tensor", teacher_BK: "Tensor", temperature: float) -> "Tensor":
    """T^2 KL(softmax(t / T) || softmax(s / T)), the mean over the rows (Hinton et al. 2015).

    Its gradient by s is T (softmax(s / T) - softmax(t / T)) / B. For large T that tends to the one of
    matching centred logits, ((s - mean s) - (t - mean t)) / (K B).

    Args:
        student_BK: logits s of the student.
        teacher_BK: logits t of the teacher.
        temperature: T > 0.
    """
    from torch.nn import functional

    log_student_BK = functional.log_softmax(student_BK / temperature, dim=1)
    log_teacher_BK = functional.log_softmax(teacher_BK / temperature, dim=1)
    divergence = functional.kl_div(log_student_BK, log_teacher_BK, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
