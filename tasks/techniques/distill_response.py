"""Response distillation: a student learns the baseline's softened outputs beside the labels.

Dimension legend: N rows of the train split, B rows of a batch, K outputs.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, ModelFormat
from tasks.techniques.technique import Applied, StageContext, TechniqueSpec
from tasks.techniques.training import Batch, Loss, Schedule, device_for, fit, label_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.models.architecture import Network

_INFERENCE_BATCH = 1024
"""Rows per call of the teacher when no memory limit is known."""
_SMALL_STUDENT, _LARGE_STUDENT = 0.10, 0.50
"""Shares of the teacher's parameters outside which practice warns."""


class DistillResponse(TechniqueSpec):
    """L = w CE(y, s) + (1 - w) T^2 KL(softmax(t / T) || softmax(s / T)), Hinton et al. 2015 (arXiv:1503.02531).

    y are the labels, s and t the logits of student and teacher, w is `label_weight` and T is
    `temperature`. T^2 keeps the gradient of the soft term at one size for all T. Both terms are means
    over the rows. For regression the terms are MSE(y, s) and MSE(t, s), and T has no effect.
    """

    summary: ClassVar[str] = "Train a small student on the baseline's softened outputs and the labels."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"

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

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train the student; `model` is the student itself if no architecture is given, otherwise unused.

        Raises:
            TechniqueError: the teacher is below its floor, the student's outputs do not fit, or training diverged.
        """
        from tasks.models.architecture import Network

        device = device_for(self.resources.num_gpus)
        teacher = Network.from_bytes(context.load_baseline()).module.to(device).eval().requires_grad_(False)
        score = self._verified_score(teacher, context, device)
        student = self._student(model, context)
        train = context.load_split("train")
        loss = self._loss(teacher, train.x, context, device)
        fit(student.module, train, loss, self.schedule, context, device=device)
        return Applied(student.to_bytes(), _facts(teacher, student.module, context, score))

    def _verified_score(self, teacher: "nn.Module", context: StageContext, device: str) -> float:
        """Return the teacher's score on the calibration split, or refuse it: a student inherits its errors."""
        import torch

        from tasks.techniques.inference import outputs_of

        split = context.load_split("calibration")
        inputs, labels_N = torch.from_numpy(split.x).to(device), torch.from_numpy(split.y).to(device)
        outputs_NK = outputs_of(teacher, inputs, context.micro_batch_limit or _INFERENCE_BATCH)
        if context.task == "classification":
            name, score, guess = "accuracy", _accuracy(outputs_NK, labels_N), _largest_share(labels_N)
        else:
            name, score, guess = "R2", _r2(outputs_NK, labels_N), 0.0
        if score <= guess or score < self.teacher_floor:
            raise TechniqueError(
                f"the teacher's {name} on the {len(split.y)} calibration rows is {score:.4f}; distill_response needs "
                f"at least teacher_floor={self.teacher_floor:g} and more than the {guess:.4f} of a constant guess. "
                "Train the baseline longer, or lower teacher_floor"
            )
        return score

    def _student(self, model: bytes, context: StageContext) -> "Network":
        """Build the student, or take the incoming model, and check that its outputs can be compared."""
        import torch

        from tasks.models.architecture import Network, completed
        from tasks.techniques.inference import outputs_of

        if self.student is None:
            network = Network.from_bytes(model)
        else:
            architecture = completed(self.student, context.input_shape, context.num_outputs)
            network = Network.create(architecture, context.seed)
        example = torch.from_numpy(context.load_split("calibration").x[:2])
        shape = tuple(outputs_of(network.module, example, 2).shape[1:])
        if shape != (context.num_outputs,):
            raise TechniqueError(
                f"the student {network.architecture.factory!r} gives outputs of shape {list(shape)} for each row, "
                f"but the teacher's have shape [{context.num_outputs}]; give it {context.num_outputs} outputs"
            )
        return network

    def _loss(self, teacher: "nn.Module", inputs: np.ndarray, context: StageContext, device: str) -> Loss:
        """Return the loss of the class docstring.

        Under augmentation the teacher sees the very view that the student sees (Beyer et al. 2022,
        arXiv:2106.05237); otherwise it answers once for every row.
        """
        import torch
        from torch.nn import functional

        from tasks.techniques.inference import outputs_of

        hard = label_loss(context.task, self.schedule.label_smoothing)
        limit = context.micro_batch_limit or _INFERENCE_BATCH
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


def _accuracy(outputs_NK: "Tensor", labels_N: "Tensor") -> float:
    return float((outputs_NK.argmax(dim=1) == labels_N).double().mean())


def _largest_share(labels_N: "Tensor") -> float:
    """Accuracy of always naming the most frequent class."""
    return float(labels_N.bincount().max()) / len(labels_N)


def _r2(outputs_N1: "Tensor", targets_N: "Tensor") -> float:
    """1 - (squared error) / (squared deviation from the mean); 0 for constant targets."""
    targets = targets_N.double()
    deviation = float((targets - targets.mean()).square().sum())
    error = float((outputs_N1.squeeze(1).double() - targets).square().sum())
    return 1 - error / deviation if deviation else 0.0


def _facts(
    teacher: "nn.Module", student: "nn.Module", context: StageContext, score: float
) -> dict[str, float | int | str]:
    """Return what is worth showing, with a warning when the student's size is out of the useful range."""
    num_teacher, num_student = (sum(p.numel() for p in module.parameters()) for module in (teacher, student))
    share = num_student / num_teacher
    facts: dict[str, float | int | str] = {
        "teacher_accuracy" if context.task == "classification" else "teacher_r2": score,
        "teacher_parameters": num_teacher,
        "student_parameters": num_student,
        "student_share": share,
    }
    if share < _SMALL_STUDENT:
        facts["warning"] = f"the student has {share:.1%} of the teacher's parameters; below 10 % accuracy often suffers"
    elif share > _LARGE_STUDENT:
        facts["warning"] = f"the student has {share:.0%} of the teacher's parameters; above 50 % little is gained"
    return facts
