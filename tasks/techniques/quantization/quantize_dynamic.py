"""Dynamic int8 quantization: weights stored in int8, activations quantised at run time; needs no calibration."""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.quantization.checks import AllowSlower, require_speed
from tasks.techniques.quantization.coverage import coverage_details, require_coverage
from tasks.techniques.quantization.dynamic import DynamicInt8
from tasks.techniques.quantization.embeddings import quantise_embeddings
from tasks.techniques.quantization.float_layers import KeepFloat, kept_float, layers_of
from tasks.techniques.quantization.preparation import prepared
from tasks.techniques.technique import Applied, IncomingWeights, Invariant, StageContext, TechniqueSpec


class QuantizeDynamic(TechniqueSpec):
    """Matrix products in int8 with the activations' ranges taken from each request: the choice for transformers.

    Convolutions stay float unless asked for: onnxruntime's ConvInteger has no fast kernel (a residual network ran at
    0.16 times its float speed). Use quantize_static for them.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_slower": True}]})

    summary: ClassVar[str] = "Int8 weights, activations quantised at run time; no calibration; for matrix products."
    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    takes_weights: ClassVar[IncomingWeights] = "float"
    gives_int8: ClassVar[bool] = True
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank", "sparsity"})

    kind: Literal["quantize_dynamic"] = "quantize_dynamic"
    per_channel: bool = Field(default=True, description="One weight scale per output channel instead of one per layer.")
    reduce_range: bool = Field(
        default=False, description="7-bit weights, for x86 processors without VNNI, whose 16-bit sums overflow."
    )
    convolutions: bool = Field(default=False, description="Also convolutions: small, but several times slower.")
    embeddings: bool = Field(default=True, description="Also embedding tables, with one scale per row.")
    keep_float: KeepFloat = ()
    first_last_float: bool = Field(default=False, description="Keep the first and the last layer in float.")
    min_coverage: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Share of the layers meant to be int8 that must be so in onnxruntime's optimised graph.",
    )
    allow_slower: AllowSlower = False

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Quantise an ONNX model; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model has no layer to quantise or is quantised already, a `keep_float` matches
                nothing, too few layers run in int8, or the model is slower than its input.
        """
        from tasks.evaluation.onnx_graph import measure_int8_coverage
        from tasks.models.onnx_compact import compact

        graph = prepared(model, self.kind)
        kept = {node.name for node in kept_float(graph, self.keep_float, self.first_last_float, self.kind)}
        rewriter = DynamicInt8(graph, per_channel=self.per_channel, reduce_range=self.reduce_range)
        all_layers = layers_of(graph, self.kind)
        layers = [
            node
            for node in all_layers
            if node.name not in kept and rewriter.can_rewrite(node) and (self.convolutions or node.op_type != "Conv")
        ]
        if not layers:
            raise TechniqueError(
                f"quantize_dynamic found no matrix product with a constant weight among {len(all_layers)} layers; "
                "use quantize_static for convolutions, or set convolutions"
            )
        num_tables = quantise_embeddings(graph, kept) if self.embeddings else 0
        rewriter.rewrite(layers)
        result = compact(graph).SerializeToString(deterministic=True)
        coverage = measure_int8_coverage(result)
        chosen = {node.name for node in layers}
        require_coverage(coverage, [node.name for node in all_layers if node.name not in chosen], self.min_coverage)
        x = context.load_split("calibration").x
        speed = require_speed(model, result, x, kind=self.kind, seed=context.seed, allow_slower=self.allow_slower)
        details = {**coverage_details(coverage), "int8_embeddings": num_tables, "size_bytes": len(result), **speed}
        return Applied(result, details)
