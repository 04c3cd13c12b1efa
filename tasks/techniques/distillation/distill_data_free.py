"""Data-free distillation: the student learns from rows that are made up from the teacher alone.

Dimension legend: N synthetic rows, B rows of a batch, K outputs.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from tasks.contracts.data import SplitName
from tasks.contracts.errors import TechniqueError
from tasks.contracts.value import Value
from tasks.techniques.distillation.fields import Temperature
from tasks.techniques.distillation.losses import softened_divergence
from tasks.techniques.distillation.phases import run_phases
from tasks.techniques.distillation.student import make_student
from tasks.techniques.distillation.student_spec import StudentSpec
from tasks.techniques.loss import Batch
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIRMED = "synthetic_rows_confirmed"
_CONFIRMED_LEAST = 0.9


class Synthesis(Value):
    """How rows are made up; see `inversion.Inversion` for the loss."""

    num_rows: int = Field(default=4096, ge=2, le=1_000_000, description="Rows to make, equally many of all classes.")
    batch_size: int = Field(
        default=128,
        ge=8,
        le=65_536,
        description="Rows whose statistics are compared together; about ten or more of each class are wanted.",
    )
    steps: int = Field(default=150, ge=1, le=100_000, description="Optimizer steps for each batch.")
    learning_rate: float = Field(
        default=0.1, gt=0, le=10, description="Of Adam on the rows; it falls to 0 by a cosine."
    )
    statistics_weight: float = Field(
        default=3.0,
        ge=0,
        le=1e6,
        description="Weight of the batch norms' statistics beside the classes' cross-entropy.",
    )
    variation_weight: float = Field(
        default=3.0, ge=0, le=1e6, description="Weight of the mean squared difference of neighbouring pixels."
    )
    norm_weight: float = Field(default=1e-4, ge=0, le=1e6, description="Weight of the mean square of the values.")
    max_mib: int = Field(
        default=1024, ge=1, le=1_048_576, description="Most memory for all rows, MiB; more are refused before any work."
    )


class DistillDataFree(StudentSpec):
    """L = T^2 KL(softmax(t / T) || softmax(s / T)) on rows made by DeepInversion (Yin et al. 2020, arXiv:1912.08795).

    No split is read at all, so the teacher is not verified either: its accuracy is the baseline's own record. The
    rows are inputs for which the teacher's batch norms see the statistics that they remember from training, and
    which it takes for classes chosen beforehand. For classes and float inputs, and a teacher with batch norm.

    Made rows are few and dear, views of them are many and cheap, and the teacher answers for each: so the
    schedule's augmentation decides more here than anywhere else.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "distill_data_free",
                    "student": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 4, "blocks": [1]}},
                    "synthesis": {"num_rows": 48, "batch_size": 24, "steps": 10},
                }
            ]
        }
    )

    summary: ClassVar[str] = "Train a student without data, on rows inverted from the baseline's batch norms."

    kind: Literal["distill_data_free"] = "distill_data_free"
    synthesis: Synthesis = Field(default=Synthesis(), description="How many rows are made up, and how.")
    temperature: Temperature = 4.0

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Make rows, then train the student; an interrupted stage keeps the rows and its last checkpoint.

        Raises:
            TechniqueError: the task has no classes, the teacher has no batch norm, the rows would not fit into
                their bound, the student's outputs do not fit, or making rows or training diverged.
        """
        from tasks.models.architecture import Network

        num_bytes = self.synthesis.num_rows * math.prod(context.input_shape) * 4
        self._check(context, num_bytes)
        device = device_for(self.resources.num_gpus)
        teacher = Network.from_bytes(context.load_baseline()).module.to(device).eval().requires_grad_(False)
        student = make_student(self.student, model, replace(context, load_split=_blank_rows(context)))
        details: dict[str, float | int | str] = {
            "teacher_parameters": _num_parameters(teacher),
            "student_parameters": _num_parameters(student.module),
            "student_share": _num_parameters(student.module) / _num_parameters(teacher),
            "synthetic_rows": self.synthesis.num_rows,
            "synthetic_bytes": num_bytes,
        }
        train = partial(self._train, teacher, student.to_bytes(), device, details)
        trained = run_phases([partial(self._synthesise, teacher), train], b"", context)
        if warning := self._warning(context, float(details[_CONFIRMED])):
            details["warning"] = warning
        return Applied(trained, details)

    def _check(self, context: StageContext, num_bytes: int) -> None:
        if context.task != "classification":
            raise TechniqueError(
                f"distill_data_free makes rows for classes, but the task is {context.task}; use distill_response"
            )
        if context.vocab_size is not None:
            raise TechniqueError(
                "distill_data_free moves inputs along the teacher's gradient, but these rows are token ids, which have "
                "none; use distill_response"
            )
        if num_bytes > self.synthesis.max_mib * 2**20:
            raise TechniqueError(
                f"synthesis.num_rows={self.synthesis.num_rows} rows of shape {list(context.input_shape)} take "
                f"{num_bytes / 2**20:.0f} MiB, over synthesis.max_mib={self.synthesis.max_mib}; make fewer, or raise it"
            )

    def _warning(self, context: StageContext, confirmed: float) -> str:
        """Return what makes the student weaker than it could be; empty where nothing was found."""
        reasons = []
        if confirmed < _CONFIRMED_LEAST:
            reasons.append(
                f"the teacher takes only {confirmed:.0%} of the synthetic rows for the class that they were made for: "
                "raise synthesis.steps, or lower synthesis.statistics_weight and synthesis.variation_weight"
            )
        if len(context.input_shape) == 3 and self.schedule.augmentation.is_identity:
            reasons.append(
                "the synthetic images are shown only as they were made: with schedule.augmentation the student learns "
                "the teacher's answers to many views of each"
            )
        return "; ".join(reasons)

    def _synthesise(self, teacher: "nn.Module", _: bytes, context: StageContext, __: int) -> bytes:
        """Return the synthetic rows `x` and their classes `y` as a safetensors file."""
        import safetensors.torch

        from tasks.techniques.distillation.inversion import Inversion

        wanted = self.synthesis
        inversion = Inversion(
            steps=wanted.steps,
            batch_size=min(wanted.batch_size, context.micro_batch_limit or wanted.batch_size),
            learning_rate=wanted.learning_rate,
            statistics_weight=wanted.statistics_weight,
            variation_weight=wanted.variation_weight,
            norm_weight=wanted.norm_weight,
        )
        x, labels_N = inversion.synthesise(
            teacher, wanted.num_rows, context.input_shape, context.num_outputs, context.seed
        )
        return safetensors.torch.save({"x": x, "y": labels_N})

    def _train(
        self,
        teacher: "nn.Module",
        student: bytes,
        device: str,
        details: dict[str, float | int | str],
        rows: bytes,
        context: StageContext,
        first_step: int,
    ) -> bytes:
        """Train the student on the synthetic rows; note in `details` how many the teacher takes for what they are."""
        import safetensors.numpy
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.distillation.teacher import INFERENCE_BATCH
        from tasks.techniques.distillation.teacher_outputs import TeacherOutputs
        from tasks.techniques.inference import outputs_of

        loaded = safetensors.numpy.load(rows)
        split = Arrays(loaded["x"], loaded["y"])
        batch_size = context.micro_batch_limit or INFERENCE_BATCH
        taken_N = outputs_of(teacher, torch.from_numpy(split.x).to(device), batch_size).argmax(dim=1).cpu().numpy()
        details[_CONFIRMED] = float((taken_N == split.y).mean())
        network = Network.from_bytes(student)
        answers = TeacherOutputs(teacher, split.x, context, self.schedule, device)

        def loss(outputs_BK: "Tensor", batch: Batch) -> "Tensor":
            return softened_divergence(outputs_BK, answers.outputs_for(batch), self.temperature)

        fit(network.module, split, loss, self.schedule, context, first_step=first_step, device=device)
        return network.to_bytes()


def _blank_rows(context: StageContext) -> Callable[[SplitName], Arrays]:
    """Return a loader of two rows of zeros, for what needs no more of the data than its shape."""
    rows = Arrays(np.zeros((2, *context.input_shape), dtype=np.float32), np.zeros(2, dtype=np.int64))
    return lambda name: rows


def _num_parameters(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())
