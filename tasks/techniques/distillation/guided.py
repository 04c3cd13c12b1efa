"""What the techniques share that compare layers of student and teacher: their fields, and the order of the work."""

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.techniques.distillation.fields import TeacherFloor, Temperature
from tasks.techniques.distillation.layer_pairs import LayerPair, LayerShape
from tasks.techniques.distillation.phases import run_phases
from tasks.techniques.distillation.student import make_student, student_facts
from tasks.techniques.distillation.student_spec import StudentSpec
from tasks.techniques.distillation.teacher import verified_teacher
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, StageContext
from tasks.techniques.training import device_for

if TYPE_CHECKING:
    from tasks.techniques.distillation.guided_training import Weights
    from tasks.techniques.distillation.guides import Features, Guide


class GuidedSpec(StudentSpec):
    """L = a CE(y, s) + b T^2 KL(softmax(t / T) || softmax(s / T)) + G(features of s, features of t).

    y are the labels, s and t the logits of student and teacher; a is `label_weight`, b `response_weight` and T
    `temperature`. G is the weighted loss of the technique, the mean over the pairs of layers; its parameters are
    thrown away in the end. The weights need not sum to 1. The terms are means over the rows. For regression the
    first two are MSE(y, s) and MSE(t, s). The teacher sees the very view that the student sees (Beyer et al. 2022,
    arXiv:2106.05237).
    """

    pairs: tuple[LayerPair, ...] = Field(
        default=(), description="Which layers of the student learn from which of the teacher; chosen if none is given."
    )
    label_weight: float = Field(default=0.5, ge=0, le=1e6, description="Weight of the label loss.")
    response_weight: float = Field(
        default=0.5, ge=0, le=1e6, description="Weight of the divergence from the teacher's softened outputs."
    )
    temperature: Temperature = 4.0
    teacher_floor: TeacherFloor = 0.0

    @abstractmethod
    def _choose_pairs(self, teacher: list[LayerShape], student: list[LayerShape]) -> tuple[LayerPair, ...]:
        """Choose pairs where the plan names none."""

    @abstractmethod
    def _make_guide(self, pairs: tuple[LayerPair, ...], student: "Features", teacher: "Features") -> "Guide":
        """Return G; the features are those of a few calibration rows, on the CPU."""

    @abstractmethod
    def _trainings(self) -> "list[tuple[Schedule, Weights]]":
        """Return the trainings that follow each other, with the weights of their terms."""

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train the student; `model` is the student itself if no architecture is given, otherwise unused.

        An interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: the teacher is below its floor, a pair names a layer that is not there or layers that
                cannot be compared, the student's outputs do not fit, or training diverged.
        """
        from tasks.models.architecture import Network
        from tasks.techniques.distillation.guided_training import GuidedTraining, chosen_pairs

        device = device_for(self.resources.num_gpus)
        teacher = verified_teacher(context.load_baseline(), context, self.teacher_floor, device)
        student = make_student(self.student, model, context)
        pairs = chosen_pairs(self.pairs, self._choose_pairs, teacher.module, student.module, context, device)
        training = GuidedTraining(teacher.module, pairs, self._make_guide, self.temperature, device)
        phases = [partial(training.run, schedule, weights) for schedule, weights in self._trainings()]
        trained = run_phases(phases, student.to_bytes(), context)
        details = student_facts(teacher, Network.from_bytes(trained).module, context)
        return Applied(trained, details | {"pairs": ", ".join(str(pair) for pair in pairs)})
