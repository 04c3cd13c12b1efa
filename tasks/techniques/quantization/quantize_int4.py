"""Weight-only 4-bit quantization in blocks; activations and arithmetic stay float."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.quantization.checks import AllowSlower, require_speed
from tasks.techniques.quantization.coverage import coverage_details
from tasks.techniques.quantization.decoders import LEAST_ELEMENTS, decode_at_load
from tasks.techniques.quantization.embeddings import embedding_lookups
from tasks.techniques.quantization.float_layers import LAYERS, KeepFloat, kept_float
from tasks.techniques.quantization.int4_storage import Int4Weight, has_kernel, store_for_kernel, store_for_loading
from tasks.techniques.quantization.preparation import prepared
from tasks.techniques.technique import Applied, IncomingWeights, Invariant, StageContext, TechniqueSpec

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


class QuantizeInt4(TechniqueSpec):
    """Weights of convolutions, matrix products and embeddings in 4 bits, with a scale for every block of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_slower": True}]})

    summary: ClassVar[str] = "Weights in 4 bits with a scale per block: an eighth of the bytes, at float speed."
    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    takes_weights: ClassVar[IncomingWeights] = "float"
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank", "sparsity"})

    kind: Literal["quantize_int4"] = "quantize_int4"
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        default=32,
        description="Weights that share a scale, at most: the largest divisor of an output's number of weights.",
    )
    symmetric: bool = Field(default=True, description="Levels around 0; else a zero point for every block as well.")
    decode: Literal["load", "request"] = Field(
        default="load",
        description="`load` decodes the weights once: float speed and memory. `request` multiplies matrices as they "
        "are stored (MatMulNBits): an eighth of the memory; faster for one vector a request, slower for many.",
    )
    embeddings: bool = Field(default=True, description="Also embedding tables.")
    keep_float: KeepFloat = ()
    first_last_float: bool = Field(default=False, description="Keep the first and the last layer in float.")
    allow_slower: AllowSlower = False

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Quantise the weights of an ONNX model; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model has no weights to quantise or is quantised already, a `keep_float` matches
                nothing, or the model is slower than its input.
        """
        from tasks.evaluation.onnx_graph import measure_int8_coverage
        from tasks.models.onnx_compact import compact

        graph = prepared(model, self.kind)
        kept = {node.name for node in kept_float(graph, self.keep_float, self.first_last_float, self.kind)}
        weights = _weights(graph.graph, kept, self.embeddings)
        if not weights:
            raise TechniqueError(
                f"quantize_int4 found no weight of {LEAST_ELEMENTS} elements or more that is not kept float"
            )
        stored = {name: self._stored(name, weight, node) for name, (weight, node) in weights.items()}
        decode_at_load(graph.graph, {name: each.decoder for name, each in stored.items()})
        result = compact(graph).SerializeToString(deterministic=True)
        x = context.load_split("calibration").x
        speed = require_speed(model, result, x, kind=self.kind, seed=context.seed, allow_slower=self.allow_slower)
        details: dict[str, float | int | str] = {
            **_summary(stored),
            **coverage_details(measure_int8_coverage(result)),
            "size_bytes": len(result),
            **speed,
        }
        return Applied(result, details)

    def _stored(self, name: str, weight: np.ndarray, node: "NodeProto") -> Int4Weight:
        """Store one weight; a Gemm that is to multiply by it as stored takes it the other way round from then on."""
        if self.decode == "load" or node.op_type not in ("MatMul", "Gemm"):
            return store_for_loading(name, weight, _sums_along_rows(node), self.block_size, self.symmetric)
        weight_KN = weight.T if _transposed(node) else weight
        if not has_kernel(weight_KN.shape, self.block_size):
            return store_for_loading(name, weight, _sums_along_rows(node), self.block_size, self.symmetric)
        for attribute in [each for each in node.attribute if each.name == "transB"]:
            node.attribute.remove(attribute)
        return store_for_kernel(name, np.ascontiguousarray(weight_KN), self.block_size, self.symmetric)


def _weights(
    graph: "GraphProto", excluded: set[str], with_embeddings: bool
) -> "dict[str, tuple[np.ndarray, NodeProto]]":
    """Return the float weights to store, each with the one node that uses it."""
    from onnx import TensorProto, numpy_helper

    users: dict[str, NodeProto] = {}
    for node in graph.node:
        if node.op_type in LAYERS and node.name not in excluded:
            users.setdefault(node.input[1], node)
    if with_embeddings:
        users |= {node.input[0]: node for node in embedding_lookups(graph, excluded)}
    times_used: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            times_used[name] = times_used.get(name, 0) + 1
    return {
        tensor.name: (numpy_helper.to_array(tensor), users[tensor.name])
        for tensor in graph.initializer
        if tensor.name in users
        and times_used[tensor.name] == 1
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) >= 2
        and np.prod(tensor.dims) >= LEAST_ELEMENTS
    }


def _transposed(node: "NodeProto") -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _sums_along_rows(node: "NodeProto") -> bool:
    """Tell whether one output's weights, which blocks are cut from, lie in weight[i, ...] or else in weight[:, i]."""
    return node.op_type in ("Conv", "Gather") or _transposed(node)


def _summary(stored: Mapping[str, Int4Weight]) -> dict[str, float | int | str]:
    num_weights = sum(each.num_weights for each in stored.values())
    noise = sum(each.squared_error for each in stored.values())
    signal = sum(each.squared_weights for each in stored.values())
    return {
        "int4_tensors": len(stored),
        "int4_weights": num_weights,
        "bits_per_weight": sum(each.num_bits for each in stored.values()) / num_weights,
        "weight_noise": noise / signal if signal else 0.0,
    }
