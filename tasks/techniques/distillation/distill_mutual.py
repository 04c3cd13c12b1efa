"""Deep mutual learning: small networks train together and teach each other; there is no teacher."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, ModelFormat
from tasks.techniques.distillation.student import make_student
from tasks.techniques.distillation.teacher import calibration_score
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from tasks.models.architecture import Network


class DistillMutual(TechniqueSpec):
    """Each of M peers learns CE(y, p_m) + w mean_(l != m) T^2 KL(p_l || p_m) (Zhang et al. 2018, arXiv:1706.00384).

    y are the labels, p_m the probabilities of peer m at `temperature` T, and w is `mutual_weight`. The baseline is
    neither loaded nor asked. Peers of one architecture differ by their initial weights. Memory and time are those
    of training all peers. For classes only.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "distill_mutual",
                    "student": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 4, "blocks": [1]}},
                }
            ]
        }
    )

    summary: ClassVar[str] = "Train students together that teach each other; needs no teacher."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"

    kind: Literal["distill_mutual"] = "distill_mutual"
    student: Architecture | None = Field(
        default=None, description="What to train from scratch; without it the incoming model's architecture."
    )
    num_peers: int = Field(
        default=2, ge=1, le=16, description="Students of this architecture, with initial weights of their own."
    )
    other_peers: tuple[Architecture, ...] = Field(
        default=(), description="Further peers of other architectures; they teach and learn, and are thrown away."
    )
    given_out: Literal["best", "first"] = Field(
        default="best",
        description="Which student: the most accurate on the calibration split (the first of equals), or the first.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Divides all logits in the mutual term.")
    mutual_weight: float = Field(default=1.0, ge=0, le=1e6, description="Weight of the mutual term beside the labels'.")
    schedule: Schedule = Field(default=Schedule(), description="How long and how fast the peers train.")

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`."""
        return self.schedule.epochs

    @property
    def starts_over(self) -> bool:
        """Always: of the incoming model at most the architecture is used."""
        return True

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Train all peers at once and give out one; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: the task has no classes, there is only one peer, a peer's outputs do not fit, or training
                diverged.
        """
        if context.task != "classification":
            raise TechniqueError(
                f"distill_mutual compares probabilities of classes, but the task is {context.task}; "
                "use distill_response or distill_self"
            )
        if self.num_peers + len(self.other_peers) < 2:
            raise TechniqueError("distill_mutual needs two peers; raise num_peers, or name other_peers")
        from tasks.techniques.distillation.cohort import Cohort, mutual_loss

        students, others = self._make_peers(model, context)
        cohort = Cohort([peer.module for peer in students + others])
        hard = label_loss(context.task, self.schedule.label_smoothing)
        loss = mutual_loss(cohort, hard, self.temperature, self.mutual_weight)
        device = device_for(self.resources.num_gpus)
        fit(cohort, context.load_split("train"), loss, self.schedule, context, device=device)
        accuracies = [calibration_score(student.module, context, "cpu")[0] for student in students]
        chosen = accuracies.index(max(accuracies)) if self.given_out == "best" else 0
        return Applied(students[chosen].to_bytes(), _facts(students, len(others), accuracies, chosen))

    def _make_peers(self, model: bytes, context: StageContext) -> "tuple[list[Network], list[Network]]":
        """Return the students and the other peers, each drawn from a seed of its own."""
        from tasks.models.architecture import Network

        student = self.student or Network.from_bytes(model).architecture
        recipes = [student] * self.num_peers + list(self.other_peers)
        peers = [
            make_student(recipe, b"", replace(context, seed=context.seed + index))
            for index, recipe in enumerate(recipes)
        ]
        return peers[: self.num_peers], peers[self.num_peers :]


def _facts(
    students: "list[Network]", num_others: int, accuracies: list[float], chosen: int
) -> dict[str, float | int | str]:
    parameters = students[chosen].module.parameters()
    return {
        "student_parameters": sum(parameter.numel() for parameter in parameters),
        "peers": len(students) + num_others,
        "given_out_peer": chosen + 1,
        "calibration_accuracy": accuracies[chosen],
        "calibration_accuracy_of_all": ", ".join(f"{accuracy:.4f}" for accuracy in accuracies),
    }
