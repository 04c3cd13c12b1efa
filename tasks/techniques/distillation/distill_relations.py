"""Relational distillation: the student's embeddings lie to each other as the teacher's do."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tasks.techniques.distillation.guided import GuidedSpec
from tasks.techniques.distillation.layer_pairs import LayerPair, LayerShape, penultimate_pair
from tasks.techniques.schedule import Schedule

if TYPE_CHECKING:
    from tasks.techniques.distillation.guided_training import Weights
    from tasks.techniques.distillation.guides import Features, Guide


class DistillRelations(GuidedSpec):
    """RKD (Park et al. 2019, arXiv:1904.05068): G = d Huber(distances) + a Huber(cosines of angles).

    The distances of all pairs of a batch's rows are in units of their mean, the angles are those of all triplets;
    d is `distance_weight`, a `angle_weight`. The other terms are those of `GuidedSpec`. Nothing is learned beside
    the student, and the embeddings may have different widths. Maps and sequences are averaged over their
    positions first. Without `pairs` the penultimate features are compared.

    The relations are those inside one forward pass: under a memory limit, inside the parts of a batch.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "distill_relations",
                    "student": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 4, "blocks": [1]}},
                }
            ]
        }
    )

    summary: ClassVar[str] = "Lead a student's rows to the distances and angles that the baseline sees (RKD)."

    kind: Literal["distill_relations"] = "distill_relations"
    label_weight: float = Field(default=1.0, ge=0, le=1e6, description="Weight of the label loss.")
    response_weight: float = Field(
        default=0.0, ge=0, le=1e6, description="Weight of the divergence from the teacher's softened outputs."
    )
    distance_weight: float = Field(
        default=1.0, ge=0, le=1e6, description="Weight of the distances' term; the paper takes up to 25 beside labels."
    )
    angle_weight: float = Field(
        default=2.0,
        ge=0,
        le=1e6,
        description="Weight of the angles' term; the paper takes twice the distances'. Its memory grows with the "
        "cube of the batch: about 100 MiB at 256 rows for each network.",
    )

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not (self.distance_weight or self.angle_weight):
            raise ValueError("distance_weight and angle_weight are both 0; raise one, or use distill_response")
        return self

    def _trainings(self) -> "list[tuple[Schedule, Weights]]":
        from tasks.techniques.distillation.guided_training import Weights

        return [(self.schedule, Weights(self.label_weight, self.response_weight, guide=1.0))]

    def _choose_pairs(self, teacher: list[LayerShape], student: list[LayerShape]) -> tuple[LayerPair, ...]:
        return (penultimate_pair(teacher, student),)

    def _make_guide(self, pairs: tuple[LayerPair, ...], student: "Features", teacher: "Features") -> "Guide":
        from tasks.techniques.distillation.guides import RelationGuide

        return RelationGuide(self.distance_weight, self.angle_weight)
