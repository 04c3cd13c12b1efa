"""Static int8 quantization: scales measured once on calibration rows, integers from then on.

An activation x becomes q = clip(round(x / s) + z, 0, 255) with s = (max - min) / 255 and
z = round(-min / s), over a range [min, max] that is widened to contain 0. A weight becomes
q = clip(round(w / s), -127, 127) with s = max|w| / 127, for each output channel. Unsigned activations
with signed weights per channel are the combination that onnxruntime runs in int8 throughout on x86.
"""

import fnmatch
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from tasks.contracts.data import Task
from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.technique import Applied, Arrays, Invariant, StageContext, TechniqueSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from tasks.evaluation.activation_ranges import Ranges
    from tasks.evaluation.onnx_graph import Int8Coverage

_LAYERS = ("Conv", "Gemm", "MatMul")
_FOLLOWERS = (
    "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "AveragePool", "GlobalAveragePool", "MaxPool",
    "Concat", "Split", "Slice", "Gather", "Pad", "Resize", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze",
)  # fmt: skip
"""Operators between layers that onnxruntime runs on int8, so that the values need not be converted back."""


class QuantizeStatic(TechniqueSpec):
    """Weights and activations in int8, with ranges calibrated on some rows."""

    summary: ClassVar[str] = (
        "Int8 weights and activations, calibrated on a few hundred rows; checked on the real runtime."
    )
    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank", "sparsity"})

    kind: Literal["quantize_static"] = "quantize_static"
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
    keep_float: tuple[str, ...] = Field(
        default=(), description="Globs on layer names or operators that stay float, such as 'blocks.0.*' or 'Gemm'."
    )
    first_last_float: bool = Field(default=False, description="Keep the first and the last layer in float.")
    min_coverage: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Share of the layers meant to be int8 that must be so in onnxruntime's optimised graph.",
    )

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Quantise an ONNX model; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model has no layer to quantise or is quantised already, a `keep_float`
                matches nothing, or too few layers run in int8.
            ModelError: the model does not run on the calibration rows.
        """
        from tasks.evaluation.activation_ranges import measure_ranges
        from tasks.evaluation.onnx_graph import load_graph, measure_int8_coverage
        from tasks.models.onnx_compact import compact

        prepared = _prepared(load_graph(model))
        excluded = self._excluded(prepared)
        x = calibration_rows(context.load_split("calibration"), context.task, self.num_calibration_rows, context.seed)
        ranges = measure_ranges(prepared, x, self.calibration, percentile=self.percentile)
        quantised = self._quantised(prepared, ranges, excluded)
        num_bytes_before = quantised.ByteSize()
        _keep_float_outputs(quantised.graph)
        _keep_float_convolution_biases(quantised.graph)
        result = compact(quantised).SerializeToString(deterministic=True)
        coverage = measure_int8_coverage(result)
        self._require_coverage(coverage, [node.name for node in excluded if node.op_type in _LAYERS])
        return Applied(
            result,
            {
                "calibration_rows": len(x),
                "calibration_rows_asked": self.num_calibration_rows,
                "int8_coverage": coverage.share,
                "int8_layers": coverage.num_int8,
                "float_layers": len(coverage.float_nodes),
                "size_bytes_before_compaction": num_bytes_before,
                "size_bytes": len(result),
            },
        )

    def _excluded(self, model: "ModelProto") -> "list[NodeProto]":
        """Return the nodes that stay float by wish."""
        layers = [node for node in model.graph.node if node.op_type in _LAYERS]
        if not layers:
            operators = sorted({node.op_type for node in model.graph.node})
            raise TechniqueError(f"quantize_static found no {', '.join(_LAYERS)} to quantise among {operators}")
        excluded = [layers[0], layers[-1]] if self.first_last_float else []
        for glob in self.keep_float:
            matched = [
                node
                for node in model.graph.node
                if fnmatch.fnmatchcase(node.name, glob) or fnmatch.fnmatchcase(node.op_type, glob)
            ]
            if not matched:
                names = ", ".join(node.name for node in layers)
                raise TechniqueError(f"keep_float {glob!r} matches no node; the layers are {names}")
            excluded += matched
        return excluded

    def _quantised(self, model: "ModelProto", ranges: "Ranges", excluded: "list[NodeProto]") -> "ModelProto":
        """Insert QuantizeLinear and DequantizeLinear nodes with the scales that follow from `ranges`."""
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

        limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
        quantizer = QDQQuantizer(
            model,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in excluded],
            op_types_to_quantize=[*_LAYERS, *_FOLLOWERS],
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised: ModelProto = quantizer.model.model
        return quantised

    def _require_coverage(self, coverage: "Int8Coverage", kept_float: list[str]) -> None:
        """Fail when onnxruntime runs too many of the layers in float that were to run in int8."""
        num_float = max(0, len(coverage.float_nodes) - len(kept_float))
        share = coverage.num_int8 / max(1, coverage.num_int8 + num_float)
        if share < self.min_coverage:
            raise TechniqueError(
                f"only {share:.0%} of the layers run in int8 in onnxruntime's optimised graph, {self.min_coverage:.0%} "
                f"is asked for. In float: {', '.join(coverage.float_nodes)}; kept float by wish: "
                f"{', '.join(kept_float) or 'none'}. The others have an input, weight or output that is "
                "not quantised, or no int8 kernel; name them in keep_float, lower min_coverage or change the network"
            )


def calibration_rows(split: Arrays, task: Task, num_rows: int, seed: int) -> np.ndarray:
    """Draw rows without replacement, evenly over the classes as long as each has some left.

    For regression they are drawn evenly over the order of the targets. All rows are taken where there
    are not more than `num_rows`.
    """
    if len(split.x) <= num_rows:
        return split.x
    if task == "regression":
        by_target = np.argsort(split.y.reshape(-1), kind="stable")
        evenly = np.linspace(0, len(by_target) - 1, num_rows).round().astype(np.int64)
        return np.asarray(split.x[np.sort(by_target[evenly])])
    shuffled = np.random.default_rng(seed).permutation(len(split.x))
    turn = np.empty(len(shuffled), dtype=np.int64)
    for label in np.unique(split.y):
        of_label = shuffled[split.y[shuffled] == label]
        turn[of_label] = np.arange(len(of_label))
    drawn: np.ndarray = shuffled[np.argsort(turn[shuffled], kind="stable")][:num_rows]
    return np.asarray(split.x[np.sort(drawn)])


def _prepared(model: "ModelProto") -> "ModelProto":
    """Infer shapes, let onnxruntime fold constants and fuse what does not depend on the machine, and name all nodes."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise TechniqueError(
            "quantize_static takes a float model, this one is quantised already; put it before the other"
        )
    standard = all(node.domain == "" for node in model.graph.node)  # else onnx itself cannot infer all types
    with tempfile.TemporaryDirectory(prefix="stillhouse-quantize-") as folder:
        given, path = Path(folder) / "given.onnx", Path(folder) / "prepared.onnx"
        onnx.save_model(model, given)
        quant_pre_process(given, path, skip_symbolic_shape=standard)
        prepared = onnx.load_model(path)
    for position, node in enumerate(prepared.graph.node):
        node.name = node.name.removesuffix("/MatMulAddFusion") or f"{node.op_type}_{position}"
    return prepared


def _keep_float_outputs(graph: "GraphProto") -> None:
    """Take away the quantisation of what a matrix product gives to the outside.

    Its int8 kernel sums in int32 and can give the float directly; a convolution's cannot.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for value in graph.output:
        dequantize = makers[value.name]
        if dequantize.op_type != "DequantizeLinear" or dequantize.input[0] not in makers:
            continue
        quantize = makers[dequantize.input[0]]
        layer = makers[quantize.input[0]]
        if layer.op_type in ("Gemm", "MatMul"):
            graph.node.remove(quantize)
            graph.node.remove(dequantize)
            layer.output[0] = value.name


def _keep_float_convolution_biases(graph: "GraphProto") -> None:
    """Store the biases of convolutions in float: onnxruntime makes the same int32 of them when it loads the model.

    An int32 bias comes with a scale and a zero point for every channel: 12 bytes instead of 4.
    """
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    biases = {node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) == 3}
    for node in list(graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] in biases and node.input[0] in constants:
            bias = (constants[node.input[0]] * constants[node.input[1]].astype(np.float64)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(bias, node.output[0]))
            graph.node.remove(node)
