"""Weights in float16, and by option the arithmetic too."""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.quantization.checks import AllowSlower, require_speed
from tasks.techniques.quantization.half_storage import LARGEST, require_range, store_half
from tasks.techniques.quantization.preparation import prepared, require_float
from tasks.techniques.technique import ALL_INVARIANTS, Applied, IncomingWeights, Invariant, StageContext, TechniqueSpec

if TYPE_CHECKING:
    from onnx import ModelProto


class QuantizeFloat16(TechniqueSpec):
    """Weights in float16 (11 bits of precision, values up to 65504); input and output stay float32."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_slower": True}]})

    summary: ClassVar[str] = "Weights stored in float16: half the bytes; runs in float32 unless asked otherwise."
    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    takes_weights: ClassVar[IncomingWeights] = "float"
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS

    kind: Literal["quantize_float16"] = "quantize_float16"
    compute: Literal["float32", "float16"] = Field(
        default="float32",
        description="`float32` decodes the weights when the model is loaded; `float16` computes in float16 too, for "
        "processors with such kernels (x86 has none in onnxruntime: it converts back and forth).",
    )
    allow_slower: AllowSlower = False

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Store the weights of an ONNX model in float16; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model is quantised already, a weight (or, with `compute: float16`, an activation on
                the calibration rows) is beyond 65504, or the model became slower.
            ModelError: the model does not run on the calibration rows.
        """
        from tasks.evaluation.onnx_graph import load_graph
        from tasks.models.onnx_compact import compact

        x = context.load_split("calibration").x
        graph = load_graph(model)
        require_float(graph, self.kind)
        num_weights = 0
        if self.compute == "float32":
            num_weights = store_half(graph, "float16")
        else:
            graph, num_weights = _computing_in_half(model, self.kind, x)
        result = compact(graph).SerializeToString(deterministic=True)
        speed = require_speed(model, result, x, kind=self.kind, seed=context.seed, allow_slower=self.allow_slower)
        return Applied(result, {"half_weights": num_weights, "int8_coverage": 0.0, "size_bytes": len(result), **speed})


def _computing_in_half(model: bytes, kind: str, x: np.ndarray) -> "tuple[ModelProto, int]":
    """Return the graph with all its inner values in float16, and how many of its weights are."""
    from math import prod

    from onnx import TensorProto
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from tasks.evaluation.activation_ranges import measure_ranges

    graph = prepared(model, kind)
    require_range(graph.graph, "float16")
    for name, (low, high) in measure_ranges(graph, x).items():
        if max(-low, high) > LARGEST["float16"]:
            raise TechniqueError(
                f"the activation {name!r} takes the value {max(-low, high):g} on the calibration rows, but float16 "
                f"ends at {LARGEST['float16']:g}; use compute: float32 or quantize_bfloat16"
            )
    converted: ModelProto = convert_float_to_float16(graph, keep_io_types=True)
    halves = [tensor for tensor in converted.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    return converted, sum(prod(tensor.dims) for tensor in halves)
