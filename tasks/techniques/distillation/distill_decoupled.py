"""Decoupled distillation: what the teacher says of the row's class and of the others is weighed apart.

Dimension legend: B rows of a batch, K outputs.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.contracts.errors import TechniqueError
from tasks.techniques.distillation.fields import TeacherCacheMib, TeacherFloor, Temperature
from tasks.techniques.distillation.losses import decoupled_divergence
from tasks.techniques.distillation.student import make_student, student_facts
from tasks.techniques.distillation.student_spec import StudentSpec
from tasks.techniques.distillation.teacher import verified_teacher
from tasks.techniques.loss import Batch, Loss, label_loss
from tasks.techniques.technique import Applied, StageContext
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.techniques.distillation.teacher_outputs import TeacherOutputs


class DistillDecoupled(StudentSpec):
    """L = w CE(y, s) + r T^2 (alpha TCKD + beta NCKD), Zhao et al. 2022 (arXiv:2203.08679).

    TCKD is the divergence between teacher and student over the row's class against all others, NCKD the one over
    the other classes among themselves; `losses` has their formulas. The plain divergence of `distill_response` is
    TCKD + (1 - p) NCKD with p the teacher's probability of the row's class, so that a sure teacher teaches little
    of the others; here they weigh the same in every row. alpha is `target_weight`, beta `nontarget_weight`, w
    `label_weight`, and r rises from 0 to 1 over the first `soft_warmup_fraction` of the steps. Of a blended row
    the term is the blend of the terms of both its classes, with the rows' shares.
    """

    summary: ClassVar[str] = "As distill_response, with the teacher's word on the other classes weighed apart."

    kind: Literal["distill_decoupled"] = "distill_decoupled"
    temperature: Temperature = 4.0
    target_weight: float = Field(
        default=1.0, ge=0, le=100, description="alpha: weight of the divergence over the row's class."
    )
    nontarget_weight: float = Field(
        default=8.0,
        ge=0,
        le=100,
        description="beta: weight of the divergence over the other classes. The paper takes 1 to 8, the more the "
        "surer the teacher.",
    )
    label_weight: float = Field(default=1.0, ge=0, le=100, description="Weight of the label loss; 1 in the paper.")
    soft_warmup_fraction: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of all steps over which the teacher's terms rise linearly: early, they are large.",
    )
    teacher_floor: TeacherFloor = 0.0
    teacher_cache_mib: TeacherCacheMib = 1024

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if self.target_weight == self.nontarget_weight == self.label_weight == 0:
            raise ValueError("target_weight, nontarget_weight and label_weight are all 0; give one of them a weight")
        return self

    @property
    def trains_in_parallel(self) -> bool:
        """See `TechniqueSpec.trains_in_parallel`."""
        return True

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train the student; `model` is the student itself if no architecture is given, otherwise unused.

        Raises:
            TechniqueError: the task has no classes, the teacher is below its floor, the student's outputs do not
                fit, or training diverged.
        """
        from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

        if context.task != "classification":
            raise TechniqueError(
                f"{self.kind} needs classes, but the task is {context.task}, whose outputs have no target class; "
                "use distill_response"
            )
        device = device_for(self.resources.num_gpus)
        teacher = verified_teacher(context.load_baseline(), context, self.teacher_floor, device)
        student = make_student(self.student, model, context)
        train = context.load_split("train")
        answers = TeacherOutputs(
            teacher.module, train.x, context, self.schedule, device, cache_mib=self.teacher_cache_mib
        )
        warmup = SoftWarmup(self.soft_warmup_fraction)
        loss = self._loss(answers, context, warmup)
        fit(student.module, train, loss, self.schedule, context, device=device, before_step=warmup.before_step)
        return Applied(student.to_bytes(), student_facts(teacher, student.module, context) | answers.details())

    def _loss(self, answers: "TeacherOutputs", context: StageContext, warmup: "SoftWarmup") -> Loss:
        """Return the loss of the class docstring."""
        hard = label_loss(context.task, self.schedule.label_smoothing)

        def soft(outputs_BK: "Tensor", teacher_BK: "Tensor", classes_B: "Tensor") -> "Tensor":
            return decoupled_divergence(
                outputs_BK,
                teacher_BK,
                classes_B,
                temperature=self.temperature,
                target_weight=self.target_weight,
                nontarget_weight=self.nontarget_weight,
            )

        def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
            teacher_BK = answers.outputs_for(batch)
            divergence = soft(outputs_BK, teacher_BK, batch.labels)
            if batch.partner_labels is not None:
                other = soft(outputs_BK, teacher_BK, batch.partner_labels)
                divergence = batch.own_share * divergence + (1 - batch.own_share) * other
            return self.label_weight * hard(outputs_BK, batch) + warmup.share * divergence

        return loss


class SoftWarmup:
    """The share r of the teacher's terms in the step that is being made; `before_step` is for `fit`."""

    def __init__(self, fraction: float) -> None:
        """`fraction` is the share of all steps over which r rises."""
        self._fraction = fraction
        self.share = 1.0

    def before_step(self, step: int, num_steps: int) -> None:
        """Move to optimizer step `step` of `num_steps`: a function of nothing else, as a resumed run needs."""
        num_warmup = round(self._fraction * num_steps)
        self.share = min(1.0, (step + 1) / num_warmup) if num_warmup else 1.0
