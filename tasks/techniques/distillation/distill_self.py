"""Self-distillation: a network is born again, taught by what it was. Dimension legend: B rows of a batch, K outputs."""

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from tasks.contracts.model import ModelFormat
from tasks.techniques.distillation.fields import LabelWeight, TeacherCacheMib, TeacherFloor, Temperature
from tasks.techniques.distillation.phases import run_phases
from tasks.techniques.distillation.recovery import taught_loss
from tasks.techniques.distillation.teacher import calibration_score, verified
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit


class DistillSelf(TechniqueSpec):
    """Born-again networks (Furlanello et al. 2018, arXiv:1805.04770): each generation teaches the next.

    Generation 0 is the incoming model. Generation g has the same architecture with weights drawn anew, and learns
    L = w CE(y, s) + (1 - w) T^2 KL(softmax(t / T) || softmax(s / T)) with t the logits of generation g - 1, y the
    labels and w `label_weight`; for regression w MSE(y, s) + (1 - w) MSE(t, s). The last generation is given out.
    What the incoming architecture is, such as its narrower or factorized layers, stays; masks and shared weights
    do not outlive the new draw.
    """

    summary: ClassVar[str] = "Train the incoming architecture anew, taught by the incoming model (born again)."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank"})

    kind: Literal["distill_self"] = "distill_self"
    generations: int = Field(
        default=1, ge=1, le=20, description="Times that the network is born again; gains end after 2 or 3."
    )
    temperature: Temperature = Field(default=1.0, description="Divides all logits in the soft term; the paper takes 1.")
    label_weight: LabelWeight = 0.5
    teacher_floor: TeacherFloor = 0.0
    teacher_cache_mib: TeacherCacheMib = 1024
    schedule: Schedule = Field(default=Schedule(), description="How long and how fast each generation trains.")

    @property
    def planned_epochs(self) -> int:
        """Epochs of all generations."""
        return self.generations * self.schedule.epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train all generations; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: a generation is below the floor as a teacher, or training diverged.
        """
        from tasks.models.architecture import Network

        phases = [partial(self._next_generation, number) for number in range(1, self.generations + 1)]
        trained = run_phases(phases, model, context)
        device = device_for(self.resources.num_gpus)
        first, last = (Network.from_bytes(one).module.to(device) for one in (model, trained))
        name = "accuracy" if context.task == "classification" else "r2"
        details: dict[str, float | int | str] = {
            f"teacher_{name}": calibration_score(first, context, device)[0],
            f"last_generation_{name}": calibration_score(last, context, device)[0],
            "generations": self.generations,
            "parameters": sum(parameter.numel() for parameter in last.parameters()),
        }
        return Applied(trained, details)

    def _next_generation(self, number: int, parent: bytes, context: StageContext, first_step: int) -> bytes:
        """Train generation `number`, from 1, with the torch artifact `parent` as its teacher."""
        from tasks.models.architecture import Network
        from tasks.techniques.distillation.teacher_outputs import TeacherOutputs

        device = device_for(self.resources.num_gpus)
        network = Network.from_bytes(parent)
        teacher = verified(network.module, context, self.teacher_floor, device)
        child = Network.create(network.architecture, context.seed + number)
        train = context.load_split("train")
        answers = TeacherOutputs(
            teacher.module, train.x, context, self.schedule, device, cache_mib=self.teacher_cache_mib
        )
        hard = label_loss(context.task, self.schedule.label_smoothing)
        loss = taught_loss(hard, answers, context.task, label_weight=self.label_weight, temperature=self.temperature)
        fit(child.module, train, loss, self.schedule, context, first_step=first_step, device=device)
        return child.to_bytes()
