"""Mixed precision: the layers that int8 harms most stay float, as few as a budget asks for or as many as it allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from tasks.contracts.data import Task
from tasks.contracts.errors import TechniqueError
from tasks.techniques.quantization.sensitivity import metric_drop, output_noise
from tasks.techniques.quantization.static_int8 import Calibrated, StaticInt8
from tasks.techniques.technique import Applied, StageContext

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Mixture:
    """The model with some layers float."""

    float_layers: tuple[str, ...]
    graph: "ModelProto"
    size_bytes: int
    noise: float
    """See `sensitivity.output_noise`, against the float model."""
    drop: float
    """See `sensitivity.metric_drop`."""


class QuantizeMixed(StaticInt8):
    """Static int8 with the most sensitive layers float.

    A layer's harm is the noise in the model's outputs on the calibration rows when that layer alone is in int8. With
    `max_drop`, layers become float in the order of their harm until the drop of the metric on the calibration rows is
    small enough. With `max_size_ratio` alone, layers become float in the order of harm per byte as long as the file
    stays small enough. With both, the first rule holds and the size is checked.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_drop": 0.02, "allow_slower": True}]})

    summary: ClassVar[str] = "Int8 with the layers that it harms most kept float, under a budget of accuracy or bytes."

    kind: Literal["quantize_mixed"] = "quantize_mixed"
    max_drop: float | None = Field(
        default=0.005,
        ge=0.0,
        le=1.0,
        description="Largest drop of accuracy, or relative rise of RMSE, on the calibration rows.",
    )
    max_size_ratio: float | None = Field(
        default=None, gt=0.0, le=1.0, description="Largest file, as a share of the incoming file's bytes."
    )

    @model_validator(mode="after")
    def _has_a_budget(self) -> "QuantizeMixed":
        if self.max_drop is None and self.max_size_ratio is None:
            raise ValueError("quantize_mixed needs a budget: give max_drop, max_size_ratio or both")
        return self

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Quantise an ONNX model; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: no mixture with an int8 layer keeps the budget, or as `QuantizeStatic.apply`.
            ModelError: the model does not run on the calibration rows.
        """
        calibrated = self.calibrated(model, context)
        trials = _Trials(self, calibrated, context.task)
        harms = trials.harms()
        if self.max_drop is not None:
            chosen = self._fewest_float(trials, sorted(harms, key=lambda name: -harms[name]))
        else:
            chosen = self._most_float(trials, harms, len(model))
        self._require_size(chosen, len(model))
        applied = self.checked(model, chosen.graph, calibrated, context, chosen.float_layers)
        most_harmful = sorted(harms, key=lambda name: -harms[name])[:10]
        details: dict[str, float | int | str] = {
            "float_by_sensitivity": ", ".join(chosen.float_layers) or "none",
            "layer_harms": ", ".join(f"{name} {harms[name]:.2g}" for name in most_harmful),
            "calibration_drop": chosen.drop,
            "output_noise": chosen.noise,
        }
        return Applied(applied.model, applied.details | details)

    def _fewest_float(self, trials: "_Trials", order: Sequence[str]) -> Mixture:
        assert self.max_drop is not None, "only called under this budget"
        for num_float in range(len(order)):
            mixture = trials.mixture(order[:num_float])
            if mixture.drop <= self.max_drop:
                return mixture
        raise TechniqueError(
            f"quantize_mixed: with one layer in int8 ({order[-1]}) the drop is still {mixture.drop:.4f} on the "
            f"calibration rows, {self.max_drop} is allowed; raise max_drop, or use quantize_float16"
        )

    def _most_float(self, trials: "_Trials", harms: Mapping[str, float], num_bytes: int) -> Mixture:
        assert self.max_size_ratio is not None, "only called under this budget"
        cost = trials.extra_bytes()
        best = trials.mixture(())
        for name in sorted(harms, key=lambda name: -harms[name] / cost[name]):
            if best.size_bytes + cost[name] > self.max_size_ratio * num_bytes:
                continue
            mixture = trials.mixture((*best.float_layers, name))
            if mixture.size_bytes <= self.max_size_ratio * num_bytes and len(mixture.float_layers) < len(harms):
                best = mixture
        return best

    def _require_size(self, mixture: Mixture, num_bytes: int) -> None:
        if self.max_size_ratio is not None and mixture.size_bytes > self.max_size_ratio * num_bytes:
            raise TechniqueError(
                f"quantize_mixed: with {len(mixture.float_layers)} layers float the file has {mixture.size_bytes} B, "
                f"{mixture.size_bytes / num_bytes:.3f} of the incoming {num_bytes}, and max_size_ratio is "
                f"{self.max_size_ratio}; raise it or max_drop, or make the network smaller first"
            )


class _Trials:
    """Mixtures of one calibrated model, built and measured on its calibration rows."""

    def __init__(self, spec: StaticInt8, calibrated: Calibrated, task: Task) -> None:
        self._spec = spec
        self._calibrated = calibrated
        self._task = task
        self._reference = self._outputs(calibrated.graph)

    def harms(self) -> dict[str, float]:
        """Return for every layer the noise in the outputs when it alone is in int8."""
        layers = self._calibrated.layers
        return {name: self.mixture([other for other in layers if other != name]).noise for name in layers}

    def extra_bytes(self) -> dict[str, int]:
        """Return for every layer what its weight takes more in float: three bytes an element."""
        sizes = {tensor.name: prod(tensor.dims) for tensor in self._calibrated.graph.graph.initializer}
        nodes = {node.name: node for node in self._calibrated.graph.graph.node}
        inputs = {name: nodes[name].input for name in self._calibrated.layers}
        return {name: max(1, 3 * sum(sizes.get(each, 0) for each in inputs[name])) for name in inputs}

    def mixture(self, float_layers: Sequence[str]) -> Mixture:
        """Build the model with these layers float, and measure it."""
        from tasks.models.onnx_compact import compact

        graph = self._spec.quantised(self._calibrated, float_layers)
        outputs = self._outputs(graph)
        return Mixture(
            float_layers=tuple(float_layers),
            graph=graph,
            size_bytes=compact(graph).ByteSize(),
            noise=output_noise(self._reference, outputs),
            drop=metric_drop(self._reference, outputs, self._calibrated.labels, self._task),
        )

    def _outputs(self, graph: "ModelProto") -> np.ndarray:
        from tasks.evaluation.runtime_session import make_session, run_rows

        return run_rows(make_session(graph.SerializeToString()), self._calibrated.rows)
