"""The loss with which a compressed network recovers: labels, and the baseline's answers if wanted."""

from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts.data import Task
from tasks.techniques.distillation.losses import softened_divergence, squared_errors
from tasks.techniques.distillation.teacher import verified_teacher
from tasks.techniques.loss import Batch, Loss, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

TEMPERATURE = 4.0
"""Of the soft term, unless the technique has a field for it (Hinton et al. 2015)."""
CACHE_MIB = 1024
"""Bound of the memory that the baseline's answers may take, MiB, unless the technique has a field for it."""

Details = dict[str, float | int | str]


def recovery_loss(
    context: StageContext,
    schedule: Schedule,
    inputs: np.ndarray,
    teacher_weight: float,
    device: str = "cpu",
    *,
    temperature: float = TEMPERATURE,
    floor: float = 0.0,
    cache_mib: int = CACHE_MIB,
) -> tuple[Loss, Details]:
    """Return (1 - w) label loss + w T^2 KL(teacher || student), the teacher being the run's baseline.

    For regression the soft term is the squared error against the teacher. The teacher sees the very view that
    the student sees; it is not loaded if `teacher_weight` w is 0.

    Args:
        context: task, baseline and calibration split.
        schedule: of the training; its label smoothing and views count here.
        inputs: [N, *input_shape], the very rows that `fit` is given.
        teacher_weight: w.
        device: torch device of the stage.
        temperature: T.
        floor: least score of the teacher on the calibration split.
        cache_mib: bound of the memory for the teacher's answers, MiB.

    Returns:
        The loss, and what is worth knowing of the teacher: its score, and the memory for its answers.

    Raises:
        TechniqueError: the teacher is below `floor`, or no better than a constant guess.
    """
    hard = label_loss(context.task, schedule.label_smoothing)
    if teacher_weight == 0:
        return hard, {}
    from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

    teacher = verified_teacher(context.load_baseline(), context, floor, device)
    answers = TeacherOutputs(teacher.module, inputs, context, schedule, device, cache_mib=cache_mib)

    score = "teacher_accuracy" if context.task == "classification" else "teacher_r2"
    loss = taught_loss(hard, answers, context.task, label_weight=1 - teacher_weight, temperature=temperature)
    return loss, {score: teacher.score, **answers.details()}


def taught_loss(hard: Loss, answers: "TeacherOutputs", task: Task, *, label_weight: float, temperature: float) -> Loss:
    """Return w label loss + (1 - w) soft loss, the soft one against a teacher's answers.

    Args:
        hard: the label loss.
        answers: the teacher's, for the rows that are trained on.
        task: T^2 KL for classes, squared errors for regression.
        label_weight: w.
        temperature: T.
    """

    def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
        teacher_BK = answers.outputs_for(batch)
        if task == "classification":
            soft = softened_divergence(outputs_BK, teacher_BK, temperature)
        else:
            soft = squared_errors(outputs_BK, teacher_BK).mean()
        return label_weight * hard(outputs_BK, batch) + (1 - label_weight) * soft

    return loss
