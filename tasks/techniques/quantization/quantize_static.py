"""Static int8 quantization: scales measured once on calibration rows, integers from then on; see `qdq`."""

from typing import ClassVar, Literal

from pydantic import ConfigDict

from tasks.techniques.quantization.calibration import calibration_rows
from tasks.techniques.quantization.static_int8 import StaticInt8
from tasks.techniques.technique import Applied, StageContext

__all__ = ["QuantizeStatic", "calibration_rows"]


class QuantizeStatic(StaticInt8):
    """Weights and activations in int8, with ranges calibrated on some rows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_slower": True}]})

    summary: ClassVar[str] = (
        "Int8 weights and activations, calibrated on a few hundred rows; checked on the real runtime."
    )

    kind: Literal["quantize_static"] = "quantize_static"

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Quantise an ONNX model; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model has no layer to quantise or is quantised already, a `keep_float`
                matches nothing, too few layers run in int8, or the model is slower than its input.
            ModelError: the model does not run on the calibration rows.
        """
        calibrated = self.calibrated(model, context)
        return self.checked(model, self.quantised(calibrated), calibrated, context)
