"""The teacher: frozen, verified before use, and asked as rarely as the augmentation allows.

Dimension legend: N rows of a split, B rows of a batch, K outputs.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tasks.contracts.errors import TechniqueError
from tasks.techniques.technique import StageContext

if TYPE_CHECKING:
    from torch import Tensor, nn

INFERENCE_BATCH = 1024
"""Rows per call of the teacher when no memory limit is known."""


@dataclass(frozen=True)
class Teacher:
    """A frozen network in evaluation mode, on the stage's device, and how good it is."""

    module: "nn.Module"
    score: float
    """Accuracy, or R2 for regression, on the calibration split."""

    @property
    def num_parameters(self) -> int:
        """Count of its parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def verified_teacher(model: bytes, context: StageContext, floor: float, device: str) -> Teacher:
    """Load a torch artifact as the teacher, or refuse it: a student inherits its errors.

    Args:
        model: the teacher, usually `context.load_baseline()`.
        context: gives the calibration split.
        floor: least accuracy (R2 for regression) on that split.
        device: torch device of the stage.

    Raises:
        TechniqueError: the score is below `floor`, or no better than a constant guess.
    """
    from tasks.models.architecture import Network

    return verified(Network.from_bytes(model).module, context, floor, device)


def verified(module: "nn.Module", context: StageContext, floor: float, device: str) -> Teacher:
    """Freeze a module as the teacher, in place, or refuse it; as `verified_teacher`.

    Raises:
        TechniqueError: the score is below `floor`, or no better than a constant guess.
    """
    module = module.to(device).eval().requires_grad_(False)
    score, guess, num_rows = calibration_score(module, context, device)
    if score <= guess or score < floor:
        name = "accuracy" if context.task == "classification" else "R2"
        raise TechniqueError(
            f"the teacher's {name} on the {num_rows} calibration rows is {score:.4f}; distillation needs "
            f"at least teacher_floor={floor:g} and more than the {guess:.4f} of a constant guess. "
            "Train the teacher longer, or lower teacher_floor"
        )
    return Teacher(module, score)


class Score(NamedTuple):
    """How good a network is on the calibration split."""

    value: float
    """Accuracy, or R2 for regression."""
    guess: float
    """The same of the best constant answer."""
    num_rows: int


def calibration_score(module: "nn.Module", context: StageContext, device: str) -> Score:
    """Run a network that is on `device` over the calibration split."""
    import torch

    from tasks.techniques.inference import outputs_of

    split = context.load_split("calibration")
    inputs, labels_N = torch.from_numpy(split.x).to(device), torch.from_numpy(split.y).to(device)
    outputs_NK = outputs_of(module, inputs, context.micro_batch_limit or INFERENCE_BATCH)
    if context.task == "classification":
        return Score(_accuracy(outputs_NK, labels_N), _largest_share(labels_N), len(split.y))
    return Score(_r2(outputs_NK, labels_N), 0.0, len(split.y))


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
