"""Response distillation: a student learns the baseline's softened outputs beside the labels.

Dimension legend: B rows of a batch, K outputs.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.value import Value
from tasks.techniques.distillation.fields import LabelWeight, TeacherCacheMib, TeacherFloor, Temperature
from tasks.techniques.distillation.losses import softened_divergences, squared_errors
from tasks.techniques.distillation.student import make_student, student_facts
from tasks.techniques.distillation.student_spec import StudentSpec
from tasks.techniques.distillation.teacher import verified_teacher
from tasks.techniques.distillation.temperature import Course, ScheduledTemperature
from tasks.techniques.distillation.unlabelled import labelled_only, num_unlabelled, training_rows
from tasks.techniques.loss import Batch, Loss, label_loss
from tasks.techniques.technique import Applied, StageContext
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.techniques.distillation.filtering import CountedStudent
    from tasks.techniques.distillation.teacher_outputs import TeacherOutputs


class ConfidenceFilter(Value):
    """On which rows the teacher is believed; the others keep their label loss and lose the soft term."""

    min_confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Least probability of the teacher's first class, at temperature 1. Blended rows (mixup) make "
        "every teacher less sure.",
    )
    only_where_right: bool = Field(
        default=False, description="Whether that class must be the row's label, where the row has one."
    )


class DistillResponse(StudentSpec):
    """L = w CE(y, s) + (1 - w) T^2 KL(softmax(t / T) || softmax(s / T)), Hinton et al. 2015 (arXiv:1503.02531).

    y are the labels, s and t the logits of student and teacher, w is `label_weight` and T is
    `temperature`, moved by `temperature_schedule`. T^2 keeps the gradient of the soft term at one size for
    all T. Both terms are means over all rows of a batch; a row that `confidence_filter` rejects adds nothing to
    the second, and a row without a label adds nothing to the first. For regression the terms are MSE(y, s) and
    MSE(t, s), and T has no effect.
    """

    summary: ClassVar[str] = "Train a small student on the baseline's softened outputs and the labels."

    kind: Literal["distill_response"] = "distill_response"
    temperature: Temperature = 4.0
    temperature_schedule: Course = Field(
        default="constant", description="How the temperature goes from `temperature` to `final_temperature`."
    )
    final_temperature: Temperature = Field(
        default=1.0, description="Temperature of the last step, unless it is constant."
    )
    label_weight: LabelWeight = 0.5
    confidence_filter: ConfidenceFilter = Field(
        default=ConfidenceFilter(), description="Which of the teacher's answers are learned; all by default."
    )
    use_unlabelled: bool = Field(
        default=False, description="Learn the teacher's answers for the rows of the split `unlabelled` too."
    )
    teacher_floor: TeacherFloor = 0.0
    teacher_cache_mib: TeacherCacheMib = 1024

    @property
    def trains_in_parallel(self) -> bool:
        """See `TechniqueSpec.trains_in_parallel`."""
        return not self._filters  # which counts, in each process, what it has seen

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train the student; `model` is the student itself if no architecture is given, otherwise unused.

        Raises:
            TechniqueError: the teacher is below its floor, the student's outputs do not fit, answers are to be
                filtered by confidence without classes, or training diverged.
            DataError: `use_unlabelled` of a data set that has no such rows.
        """
        from tasks.techniques.distillation.filtering import CountedStudent
        from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

        if self._filters and context.task != "classification":
            raise TechniqueError(
                f"confidence_filter needs classes, but the task is {context.task}: a squared error has no confidence; "
                "leave confidence_filter out"
            )
        device = device_for(self.resources.num_gpus)
        teacher = verified_teacher(context.load_baseline(), context, self.teacher_floor, device)
        student = make_student(self.student, model, context)
        rows = training_rows(context, use_unlabelled=self.use_unlabelled)
        answers = TeacherOutputs(
            teacher.module, rows.x, context, self.schedule, device, cache_mib=self.teacher_cache_mib
        )
        temperature = ScheduledTemperature(self.temperature, self.final_temperature, self.temperature_schedule)
        counted = CountedStudent(student.module) if self._filters else None
        fit(
            counted or student.module,
            rows,
            self._loss(answers, context, temperature, counted),
            self.schedule,
            context,
            device=device,
            before_step=temperature.before_step,
        )
        details = student_facts(teacher, student.module, context) | answers.details()
        if self.use_unlabelled:
            details["unlabelled_rows"] = num_unlabelled(rows)
        if counted is not None:
            details["share_of_soft_terms_left_out"] = counted.share_left_out
        return Applied(student.to_bytes(), details)

    @property
    def _filters(self) -> bool:
        return self.confidence_filter != ConfidenceFilter()

    def _loss(
        self,
        answers: "TeacherOutputs",
        context: StageContext,
        temperature: ScheduledTemperature,
        counted: "CountedStudent | None",
    ) -> Loss:
        """Return the loss of the class docstring; a filter's rejections are told to `counted`."""
        from tasks.techniques.distillation.filtering import trusted_rows

        hard = label_loss(context.task, self.schedule.label_smoothing)
        if self.use_unlabelled:
            hard = labelled_only(hard)

        def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
            teacher_BK = answers.outputs_for(batch)
            if context.task == "classification":
                soft_B = softened_divergences(outputs_BK, teacher_BK, temperature.current)
            else:
                soft_B = squared_errors(outputs_BK, teacher_BK)
            if counted is not None:
                bounds = self.confidence_filter
                trusted_B = trusted_rows(
                    teacher_BK, batch, bounds.min_confidence, only_where_right=bounds.only_where_right
                )
                counted.count(trusted_B)
                soft_B = soft_B * trusted_B
            return self.label_weight * hard(outputs_BK, batch) + (1 - self.label_weight) * soft_B.mean()

        return loss
