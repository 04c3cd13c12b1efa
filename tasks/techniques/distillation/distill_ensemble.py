"""Ensemble distillation: several students of the baseline teach one student together.

Dimension legend: B rows of a batch, K outputs.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.model import Architecture
from tasks.techniques.distillation.fields import LabelWeight, TeacherCacheMib, TeacherFloor, Temperature
from tasks.techniques.distillation.recovery import taught_loss
from tasks.techniques.distillation.student import make_student, student_facts
from tasks.techniques.distillation.student_spec import StudentSpec
from tasks.techniques.distillation.teacher import Teacher, calibration_score, verified, verified_teacher
from tasks.techniques.loss import Loss, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import device_for

if TYPE_CHECKING:
    from torch import nn

    from tasks.techniques.distillation.parts import Progress
    from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

Details = dict[str, float | int | str]


class DistillEnsemble(StudentSpec):
    """First members m = 1 ... M learn from the baseline, then the student learns from their mean (Hinton et al. 2015).

    Both learn by L = w CE(y, s) + (1 - w) T^2 KL(p || softmax(s / T)), as in `distill_response`. For the members
    p = softmax(t / T) of the baseline's logits t. For the student p = mean_m softmax(t_m / T) of the members'
    logits, with the baseline as one more of them if `include_baseline`. The members differ by their seeds: by
    initial weights and by the order of the rows. For regression the terms are squared errors and p is the mean
    output. An interrupted stage goes on within the member, or the student, that it was training.
    """

    summary: ClassVar[str] = "Train several students of the baseline, then one student on their mean."
    model_config = ConfigDict(json_schema_extra={"examples": [{"num_members": 2, "include_baseline": True}]})

    kind: Literal["distill_ensemble"] = "distill_ensemble"
    member: Architecture | None = Field(
        default=None,
        description="What each member is, from scratch; may be bigger than the student. Without it, it is as the "
        "student.",
    )
    num_members: int = Field(default=3, ge=2, le=32, description="M; the stage trains so many networks and one more.")
    include_baseline: bool = Field(default=False, description="Whether the baseline counts as one more member.")
    temperature: Temperature = 4.0
    label_weight: LabelWeight = 0.5
    teacher_floor: TeacherFloor = 0.0
    teacher_cache_mib: TeacherCacheMib = 1024
    member_schedule: Schedule = Field(default=Schedule(), description="How long and how fast each member trains.")

    @property
    def planned_epochs(self) -> int:
        """Epochs of all members and of the student."""
        return self.num_members * self.member_schedule.epochs + self.schedule.epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train the members and the student; `model` is the student itself if no architecture is given.

        Raises:
            TechniqueError: the baseline or the ensemble is below the floor, a network's outputs do not fit, or
                training diverged.
        """
        from tasks.models.architecture import Network
        from tasks.techniques.distillation.ensemble import Ensemble
        from tasks.techniques.distillation.parts import train_part

        device = device_for(self.resources.num_gpus)
        baseline = verified_teacher(context.load_baseline(), context, self.teacher_floor, device)
        student = make_student(self.student, model, context)
        train = context.load_split("train")
        done, details = self._members(student.architecture, baseline, train, context, device)
        members = [Network.from_bytes(network).module.to(device) for network in done.networks]
        details |= self._member_facts(members, context, device)
        joined = Ensemble(
            [*members, *([baseline.module] if self.include_baseline else [])], context.task, self.temperature
        )
        teacher = verified(joined, context, self.teacher_floor, device)
        answers = self._answers(teacher.module, train, self.schedule, context, device)
        train_part(student, train, self._loss(answers, self.schedule, context), self.schedule, context, done, device)
        score = "ensemble_accuracy" if context.task == "classification" else "ensemble_r2"
        details |= student_facts(baseline, student.module, context) | answers.details() | {score: teacher.score}
        return Applied(student.to_bytes(), details)

    def _members(
        self, student: Architecture, baseline: Teacher, train: Arrays, context: StageContext, device: str
    ) -> tuple["Progress", Details]:
        """Train all members, or those that an interrupted stage has left, and say what the baseline's answers cost."""
        from tasks.techniques.distillation.parts import last_progress, train_part

        answers = self._answers(baseline.module, train, self.member_schedule, context, device)
        loss = self._loss(answers, self.member_schedule, context)
        done = last_progress(context.checkpoints)
        for record in done.records:
            context.report(record)
        for number in range(len(done.networks) + 1, self.num_members + 1):
            own = replace(context, seed=context.seed + number)
            member = make_student(self.member or student, b"", own)
            done = train_part(member, train, loss, self.member_schedule, context, done, device)
        return done, {f"members_{name}": value for name, value in answers.details().items()}

    def _answers(
        self, teacher: "nn.Module", train: Arrays, schedule: Schedule, context: StageContext, device: str
    ) -> "TeacherOutputs":
        from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

        return TeacherOutputs(teacher, train.x, context, schedule, device, cache_mib=self.teacher_cache_mib)

    def _loss(self, answers: "TeacherOutputs", schedule: Schedule, context: StageContext) -> Loss:
        """Return the loss of the class docstring."""
        hard = label_loss(context.task, schedule.label_smoothing)
        return taught_loss(hard, answers, context.task, label_weight=self.label_weight, temperature=self.temperature)

    def _member_facts(self, members: "list[nn.Module]", context: StageContext, device: str) -> Details:
        """Say how many there are, and how good they are alone."""
        score = "members_mean_accuracy" if context.task == "classification" else "members_mean_r2"
        scores = [calibration_score(member, context, device).value for member in members]
        return {"num_members": len(members), score: sum(scores) / len(scores)}
