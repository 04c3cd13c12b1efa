"""Feature distillation: the student's inner features are led to predict the teacher's."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tasks.techniques.distillation.guided import GuidedSpec
from tasks.techniques.distillation.layer_pairs import LayerPair, LayerShape, stage_pairs
from tasks.techniques.schedule import Schedule

if TYPE_CHECKING:
    from tasks.techniques.distillation.guided_training import Weights
    from tasks.techniques.distillation.guides import Features, Guide


class DistillFeatures(GuidedSpec):
    """FitNets' hints (Romero et al. 2015, arXiv:1412.6550): G = c MSE(r(s), t) / Var(t) with learned regressors r.

    The other terms are those of `GuidedSpec`. c is `feature_weight`; the ratio is the share of the variance of the
    teacher's features that the student's leave unexplained, so c needs no tuning to their unit. r is a 1x1
    convolution with batch norm for maps, and linear for sequences and features.

    With `hint_epochs` the hints are learned alone first, and then the other terms without them, which are the
    paper's two phases; otherwise all terms are learned together. Without `pairs`, the last layers of every
    resolution that both networks have are paired; without maps in common, the last layers of sequences of one
    length; otherwise the penultimate features.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "distill_features",
                    "student": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 4, "blocks": [1, 1]}},
                }
            ]
        }
    )

    summary: ClassVar[str] = "Lead a student's inner features to the baseline's with learned regressors (FitNets)."

    kind: Literal["distill_features"] = "distill_features"
    feature_weight: float = Field(default=0.3, gt=0, le=1e6, description="Weight of the features' term.")
    hint_epochs: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Epochs of a first phase that learns the features alone; the schedule's follow without them.",
    )

    @model_validator(mode="after")
    def _check_second_phase(self) -> Self:
        if self.hint_epochs and not (self.label_weight or self.response_weight):
            raise ValueError(
                f"hint_epochs={self.hint_epochs} leaves nothing to learn in the second phase, since label_weight and "
                "response_weight are 0; raise one, or leave out hint_epochs"
            )
        return self

    @property
    def planned_epochs(self) -> int:
        """Epochs of both phases."""
        return self.hint_epochs + self.schedule.epochs

    def _trainings(self) -> "list[tuple[Schedule, Weights]]":
        from tasks.techniques.distillation.guided_training import Weights

        if not self.hint_epochs:
            return [(self.schedule, Weights(self.label_weight, self.response_weight, self.feature_weight))]
        hints = self.schedule.model_copy(update={"epochs": self.hint_epochs})
        return [
            (hints, Weights(label=0.0, response=0.0, guide=self.feature_weight)),
            (self.schedule, Weights(self.label_weight, self.response_weight, guide=0.0)),
        ]

    def _choose_pairs(self, teacher: list[LayerShape], student: list[LayerShape]) -> tuple[LayerPair, ...]:
        return stage_pairs(teacher, student)

    def _make_guide(self, pairs: tuple[LayerPair, ...], student: "Features", teacher: "Features") -> "Guide":
        from tasks.techniques.distillation.guides import HintGuide

        return HintGuide(pairs, student, teacher)
