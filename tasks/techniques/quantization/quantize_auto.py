"""Static int8 where it is good enough, quantization-aware training where it is not."""

from typing import ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field

from tasks.contracts.data import Task
from tasks.contracts.model import ModelFormat
from tasks.techniques.quantization.quantize_aware import QuantizeAware
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.technique import Applied, Arrays, Invariant, StageContext, TechniqueSpec

T = TypeVar("T", bound=TechniqueSpec)


class QuantizeAuto(TechniqueSpec):
    """Quantise without training, measure what it costs on the validation split, and train only if that is too much.

    The cost is the drop in accuracy, or for regression the growth of the RMSE as a share of the float
    model's. The trained model is made from the float one; the static one is then thrown away.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "static": {"allow_slower": True},
                    "aware": {"allow_slower": True, "schedule": {"epochs": 1, "batch_size": 16}},
                    "static_drop_limit": -1.0,
                }
            ]
        }
    )

    summary: ClassVar[str] = "Static int8, and training with its rounding only if accuracy drops too far without."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "onnx"
    gives_int8: ClassVar[bool] = True
    keeps: ClassVar[frozenset[Invariant]] = QuantizeStatic.keeps & QuantizeAware.keeps

    kind: Literal["quantize_auto"] = "quantize_auto"
    static: QuantizeStatic = Field(
        default=QuantizeStatic(), description="What is tried first. Its resources and threads are this stage's."
    )
    aware: QuantizeAware = Field(
        default=QuantizeAware(), description="What is done if that loses too much. Its resources are this stage's too."
    )
    static_drop_limit: float = Field(
        default=0.02,
        ge=-1,
        le=1,
        description="Largest accepted drop in accuracy on the validation split, as a share of its rows; for regression "
        "the largest relative growth of the RMSE. At -1 the network is always trained.",
    )

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`; none are reported where static quantisation is good enough."""
        return self.aware.planned_epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Quantise; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError, ModelError: see `QuantizeStatic.apply` and `QuantizeAware.apply`.
        """
        from tasks.models.architecture import Network
        from tasks.models.onnx_export import to_onnx

        validation = context.load_split("validation")
        exported = to_onnx(Network.from_bytes(model), context.input_shape, validation.x.dtype.name)
        static = self._placed(self.static).apply(exported, context)
        metric, before = _quality(exported, validation, context.task)
        _, after = _quality(static.model, validation, context.task)
        drop = _drop(context.task, before, after)
        figures: dict[str, float | int | str] = {
            "static_drop": drop,
            "static_drop_limit": self.static_drop_limit,
            "validation_rows": len(validation.y),
            f"float_{metric}": before,
            f"static_{metric}": after,
        }
        if drop <= self.static_drop_limit:
            return Applied(static.model, {"used": "quantize_static", **figures, **static.details})
        aware = self._placed(self.aware).apply(model, context)
        _, trained = _quality(aware.model, validation, context.task)
        figures[f"aware_{metric}"] = trained
        if _drop(context.task, before, trained) > drop:  # training made it worse
            return Applied(static.model, {"used": "quantize_static", **figures, **static.details})
        return Applied(aware.model, {"used": "quantize_aware", **figures, **aware.details})

    def _placed(self, spec: T) -> T:
        """Return `spec` with the resources of this stage, which is the one that runs."""
        return spec.model_copy(update={"resources": self.resources, "num_threads": self.num_threads})


def _quality(model: bytes, split: Arrays, task: Task) -> tuple[str, float]:
    """Return the name and value of the metric that decides: accuracy, or RMSE for regression."""
    from tasks.evaluation.metrics import accuracy, rmse
    from tasks.evaluation.runtime_session import make_session, run_rows

    outputs = run_rows(make_session(model), split.x)
    if task == "classification":
        return "accuracy", accuracy(outputs, split.y)
    return "rmse", rmse(outputs, split.y)


def _drop(task: Task, before: float, after: float) -> float:
    """Return how much worse `after` is: points of accuracy, or the growth of the RMSE as a share of `before`."""
    if task == "classification":
        return before - after
    return (after - before) / before if before else float(after > 0)
