"""Weights in bfloat16: float32's range in half the bytes."""

from typing import ClassVar, Literal

from pydantic import ConfigDict

from tasks.contracts.model import ModelFormat
from tasks.techniques.quantization.checks import AllowSlower, require_speed
from tasks.techniques.quantization.half_storage import store_half
from tasks.techniques.quantization.preparation import require_float
from tasks.techniques.technique import ALL_INVARIANTS, Applied, IncomingWeights, Invariant, StageContext, TechniqueSpec


class QuantizeBfloat16(TechniqueSpec):
    """Weights stored in bfloat16 (8 bits of precision, float32's range) and decoded when the model is loaded.

    onnxruntime has next to no bfloat16 kernels for the CPU, so the model computes in float32: half the bytes, the
    same speed and the same memory at run time.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_slower": True}]})

    summary: ClassVar[str] = "Weights stored in bfloat16: half the bytes; runs in float32 on the CPU, no faster."
    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    takes_weights: ClassVar[IncomingWeights] = "float"
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS

    kind: Literal["quantize_bfloat16"] = "quantize_bfloat16"
    allow_slower: AllowSlower = False

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Store the weights of an ONNX model in bfloat16; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model is quantised already, has no weights, or became slower.
        """
        from tasks.evaluation.onnx_graph import load_graph
        from tasks.models.onnx_compact import compact

        graph = load_graph(model)
        require_float(graph, self.kind)
        num_weights = store_half(graph, "bfloat16")
        result = compact(graph).SerializeToString(deterministic=True)
        x = context.load_split("calibration").x
        speed = require_speed(model, result, x, kind=self.kind, seed=context.seed, allow_slower=self.allow_slower)
        return Applied(result, {"half_weights": num_weights, "int8_coverage": 0.0, "size_bytes": len(result), **speed})
