"""Training a student whose inner features are compared with its teacher's.

Dimension legend: B rows of a batch, K outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.models.architecture import Network
from tasks.techniques.distillation.features import Caught, caught, layer_shapes
from tasks.techniques.distillation.guides import Features, Guide
from tasks.techniques.distillation.layer_pairs import LayerPair, LayerShape, Tap, check_pairs
from tasks.techniques.distillation.losses import softened_divergence, squared_errors
from tasks.techniques.distillation.teacher_outputs import TeacherOutputs
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext
from tasks.techniques.training import fit

MAX_EXAMPLES = 256
"""Calibration rows on which a guide measures features, at most."""

ChoosePairs = Callable[[list[LayerShape], list[LayerShape]], tuple[LayerPair, ...]]
"""From the layers of teacher and student to the pairs where the plan names none."""

MakeGuide = Callable[[tuple[LayerPair, ...], Features, Features], Guide]
"""From the pairs and the features of student and teacher for a few calibration rows, on the CPU."""


@dataclass(frozen=True)
class Weights:
    """Of the three terms; a term of weight 0 is left out."""

    label: float
    response: float
    guide: float


class GuidedStudent(nn.Module):
    """A student and what its guide trains beside it, as one module with the student's outputs."""

    def __init__(self, student: nn.Module, guide: Guide) -> None:
        super().__init__()
        self.student = student
        self.guide = guide

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the student's outputs [B, K]."""
        outputs: Tensor = self.student(inputs)
        return outputs


@dataclass(frozen=True)
class GuidedTraining:
    """Trains a student from what `run` is given."""

    teacher: nn.Module
    """Frozen, in evaluation mode, on `device`."""
    pairs: tuple[LayerPair, ...]
    make_guide: MakeGuide
    temperature: float
    device: str

    def run(
        self, schedule: Schedule, weights: Weights, student: bytes, context: StageContext, first_step: int
    ) -> bytes:
        """Train the torch artifact `student` and return it; what the guide trained beside it is thrown away."""
        network = Network.from_bytes(student)
        pairs = self.pairs if weights.guide else ()
        of_teacher = [Tap(pair.teacher, pair.side) for pair in pairs]
        of_student = [Tap(pair.student, pair.side) for pair in pairs]
        with caught(self.teacher, of_teacher) as teacher_caught, caught(network.module, of_student) as student_caught:
            guide = self._measured_guide(network.module, student_caught, teacher_caught, context) if pairs else None
            module = network.module if guide is None else GuidedStudent(network.module, guide)
            hard = label_loss(context.task, schedule.label_smoothing)
            train = context.load_split("train")
            answers = TeacherOutputs(self.teacher, train.x, context, schedule, self.device)

            def loss(outputs_BK: Tensor, batch: Batch) -> Tensor:
                # features are of every batch anew; answers alone may be known already
                with torch.no_grad():
                    teacher_BK = answers.outputs_for(batch) if guide is None else self.teacher(batch.inputs)
                terms = []
                if weights.label:
                    terms.append(weights.label * hard(outputs_BK, batch))
                if weights.response:
                    terms.append(weights.response * self._soft(outputs_BK, teacher_BK, context))
                if guide is not None:
                    terms.append(weights.guide * guide(student_caught.take(), teacher_caught.take()))
                return torch.stack(terms).sum()

            fit(module, train, loss, schedule, context, first_step=first_step, device=self.device)
        return network.to_bytes()

    def _soft(self, outputs_BK: Tensor, teacher_BK: Tensor, context: StageContext) -> Tensor:
        if context.task == "classification":
            return softened_divergence(outputs_BK, teacher_BK, self.temperature)
        return squared_errors(outputs_BK, teacher_BK).mean()

    def _measured_guide(
        self, student: nn.Module, student_caught: Caught, teacher_caught: Caught, context: StageContext
    ) -> Guide:
        """Show both networks calibration rows, and make the guide from their features; it depends on the seed."""
        num_rows = min(MAX_EXAMPLES, context.micro_batch_limit or MAX_EXAMPLES)
        inputs = torch.from_numpy(context.load_split("calibration").x[:num_rows])
        with torch.no_grad():
            self.teacher(inputs.to(self.device))
            student(inputs)
        features = [[one.cpu() for one in caught.take()] for caught in (student_caught, teacher_caught)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            return self.make_guide(self.pairs, *features)


def chosen_pairs(
    pairs: tuple[LayerPair, ...],
    choose: ChoosePairs,
    teacher: nn.Module,
    student: nn.Module,
    context: StageContext,
    device: str,
) -> tuple[LayerPair, ...]:
    """Return `pairs`, or those that `choose` finds if there are none, after checking that the layers exist.

    Args:
        pairs: as the plan names them.
        choose: finds pairs from the layers of teacher and student.
        teacher: on `device`.
        student: on the CPU.
        context: gives the calibration split.
        device: torch device of the teacher.

    Raises:
        TechniqueError: a layer does not exist, or no pair was found.
    """
    example = torch.from_numpy(context.load_split("calibration").x[:2])
    of_teacher, of_student = layer_shapes(teacher, example.to(device)), layer_shapes(student, example)
    pairs = pairs or choose(of_teacher, of_student)
    check_pairs(pairs, of_teacher, of_student)
    return pairs
