"""What the two static int8 quantisers share: their fields, the calibrated graph, and the checks of the result."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from tasks.contracts.model import ModelFormat
from tasks.techniques.quantization.calibration import drawn_rows
from tasks.techniques.quantization.checks import AllowSlower, require_speed
from tasks.techniques.quantization.coverage import coverage_details, require_coverage
from tasks.techniques.quantization.embeddings import quantise_embeddings
from tasks.techniques.quantization.float_layers import LAYERS, KeepFloat, activation_products, kept_float
from tasks.techniques.quantization.preparation import prepared
from tasks.techniques.quantization.qdq import insert_qdq
from tasks.techniques.technique import ALL_INVARIANTS, Applied, IncomingWeights, Invariant, StageContext, TechniqueSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from tasks.evaluation.activation_ranges import Ranges


@dataclass(frozen=True)
class Calibrated:
    """A float graph that is ready for int8."""

    graph: "ModelProto"
    """Prepared; never changed."""
    ranges: "Ranges"
    rows: np.ndarray
    """The calibration rows [N, *input_shape]."""
    labels: np.ndarray
    """Theirs [N]."""
    kept_float: tuple[str, ...]
    """Names of the nodes that stay float by wish."""
    layers: tuple[str, ...]
    """Names of the other convolutions and matrix products, in the graph's order."""
    kept_layers: tuple[str, ...]
    """Names of the convolutions and matrix products among `kept_float`."""


class StaticInt8(TechniqueSpec):
    """Base of the static int8 quantisers."""

    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    takes_weights: ClassVar[IncomingWeights] = "float"
    gives_int8: ClassVar[bool] = True
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS

    calibration: Literal["minmax", "percentile", "entropy"] = Field(
        default="minmax", description="How the range of an activation is chosen from the values that it took."
    )
    percentile: float = Field(
        default=99.99, ge=90.0, le=100.0, description="Percent of the values that calibration 'percentile' keeps."
    )
    num_calibration_rows: int = Field(
        default=256, ge=100, le=1000, description="Rows of the calibration split, drawn evenly over the classes."
    )
    per_channel: bool = Field(default=True, description="One weight scale per output channel instead of one per layer.")
    reduce_range: bool = Field(
        default=False, description="7-bit weights, for x86 processors without VNNI, whose 16-bit sums overflow."
    )
    int8_attention: bool = Field(
        default=False,
        description="Also products of two activations, as in attention. Both sides are converted on every request, "
        "which made short sequences slower.",
    )
    keep_float: KeepFloat = ()
    first_last_float: bool = Field(default=False, description="Keep the first and the last layer in float.")
    min_coverage: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Share of the layers meant to be int8 that must be so in onnxruntime's optimised graph.",
    )
    allow_slower: AllowSlower = False

    def calibrated(self, model: bytes, context: StageContext) -> Calibrated:
        """Prepare `model` and measure its activations.

        Raises:
            TechniqueError: the model has no layer to quantise or is quantised already, or a `keep_float` matches
                nothing.
            ModelError: the model does not run on the calibration rows.
        """
        from tasks.evaluation.activation_ranges import measure_ranges

        graph = prepared(model, self.kind)
        kept = kept_float(graph, self.keep_float, self.first_last_float, self.kind)
        if not self.int8_attention:
            kept += [node for node in activation_products(graph) if node not in kept]
        names = {node.name for node in kept}
        layers = [node.name for node in graph.graph.node if node.op_type in LAYERS]
        rows = drawn_rows(context.load_split("calibration"), context.task, self.num_calibration_rows, context.seed)
        return Calibrated(
            graph=graph,
            ranges=measure_ranges(graph, rows.x, self.calibration, percentile=self.percentile),
            rows=rows.x,
            labels=rows.y,
            kept_float=tuple(node.name for node in kept),
            layers=tuple(name for name in layers if name not in names),
            kept_layers=tuple(name for name in layers if name in names),
        )

    def quantised(self, calibrated: Calibrated, float_layers: Collection[str] = ()) -> "ModelProto":
        """Return the graph in int8, apart from what stays float by wish and from `float_layers`."""
        import onnx

        graph = onnx.ModelProto()
        graph.CopyFrom(calibrated.graph)
        excluded = {*calibrated.kept_float, *float_layers}
        quantise_embeddings(graph, excluded)
        return insert_qdq(
            graph, calibrated.ranges, excluded, per_channel=self.per_channel, reduce_range=self.reduce_range
        )

    def checked(
        self,
        model: bytes,
        quantised: "ModelProto",
        calibrated: Calibrated,
        context: StageContext,
        float_layers: Collection[str] = (),
    ) -> Applied:
        """Compact the quantised graph and check what onnxruntime makes of it.

        Raises:
            TechniqueError: too few layers run in int8, the model is slower than its input, or shared weights have no
                short form any more.
        """
        from tasks.evaluation.onnx_graph import load_graph, measure_int8_coverage
        from tasks.models.onnx_compact import compact
        from tasks.techniques.sharing.after_quantization import repacked

        num_bytes_before = quantised.ByteSize()
        quantised, sharing = repacked(quantised, load_graph(model))
        result = compact(quantised).SerializeToString(deterministic=True)
        coverage = measure_int8_coverage(result)
        require_coverage(coverage, [*calibrated.kept_layers, *float_layers], self.min_coverage)
        speed = require_speed(
            model, result, calibrated.rows, kind=self.kind, seed=context.seed, allow_slower=self.allow_slower
        )
        details: dict[str, float | int | str] = {
            "calibration_rows": len(calibrated.rows),
            "calibration_rows_asked": self.num_calibration_rows,
            **coverage_details(coverage),
            **sharing,
            "size_bytes_before_compaction": num_bytes_before,
            "size_bytes": len(result),
            **speed,
        }
        return Applied(result, details)
