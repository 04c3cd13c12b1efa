"""Attention transfer: the student looks where the teacher looks."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.errors import TechniqueError
from tasks.techniques.distillation.guided import GuidedSpec
from tasks.techniques.distillation.layer_pairs import LayerPair, LayerShape, map_pairs
from tasks.techniques.schedule import Schedule

if TYPE_CHECKING:
    from tasks.techniques.distillation.guided_training import Weights
    from tasks.techniques.distillation.guides import Features, Guide


class DistillAttention(GuidedSpec):
    """G = c ||q_s - q_t||^2 with q = a / ||a||, a = sum over channels of f^2 (arXiv:1612.03928).

    Zagoruyko & Komodakis 2017, activation-based. f are the features of a layer, a map of its energies over the
    positions; the other terms are those of `GuidedSpec`. c is `attention_weight`. Nothing is learned beside the
    student, and the numbers of channels may differ. Without `pairs`, the last layers of every resolution that
    both networks have are paired.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "distill_attention",
                    "student": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 4, "blocks": [1, 1]}},
                }
            ]
        }
    )

    summary: ClassVar[str] = "Lead a student to look where the baseline looks (attention transfer); for images."

    kind: Literal["distill_attention"] = "distill_attention"
    attention_weight: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Weight of the maps' term. The paper's 1000, on a mean over positions, is 1000 / (H W) here: "
        "1 at 32x32, 4 at 16x16; short schedules want less.",
    )

    def _trainings(self) -> "list[tuple[Schedule, Weights]]":
        from tasks.techniques.distillation.guided_training import Weights

        return [(self.schedule, Weights(self.label_weight, self.response_weight, self.attention_weight))]

    def _choose_pairs(self, teacher: list[LayerShape], student: list[LayerShape]) -> tuple[LayerPair, ...]:
        pairs = map_pairs(teacher, student)
        if not pairs:
            layers = (", ".join(f"{one.path} {list(one.shape)}" for one in network) for network in (teacher, student))
            raise TechniqueError(
                "attention transfer found no maps [C, H, W] of one resolution in both networks; name pairs, or use "
                "distill_features or distill_relations. The layers of the teacher are {}; those of the student "
                "{}".format(*layers)
            )
        return pairs

    def _make_guide(self, pairs: tuple[LayerPair, ...], student: "Features", teacher: "Features") -> "Guide":
        from tasks.techniques.distillation.guides import AttentionGuide

        return AttentionGuide(pairs, student, teacher)
