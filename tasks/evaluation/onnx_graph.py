"""What can be read off an ONNX file: parameters, operations, sizes, and what of it runs in int8."""

import zlib
from dataclasses import dataclass
from math import prod

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from tasks.contracts.errors import ModelError
from tasks.evaluation.onnx_flops import count_flops
from tasks.evaluation.onnx_zeros import zero_share
from tasks.evaluation.runtime_session import make_session
from tasks.evaluation.scratch import scratch_folder
from tasks.models.onnx_codebook import unpack_codebooks

INT8_OPERATORS = frozenset(
    {
        "QLinearConv", "ConvInteger", "QLinearConvTranspose",
        "QLinearMatMul", "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm",
        "QAttention", "DynamicQuantizeLSTM", "QOrderedMatMul", "QOrderedAttention",
    }
)  # fmt: skip
"""Operators that multiply in integers, in onnxruntime's optimised graphs, whatever their domain."""

FLOAT_OPERATORS = frozenset(
    {
        "Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvTranspose", "ConvTransposeWithDynamicPads",
        "MatMul", "Gemm", "FusedMatMul", "FusedMatMulActivation", "FusedGemm", "TransposeMatMul", "MatMulNBits",
        "Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention", "LSTM", "GRU", "RNN",
    }
)  # fmt: skip
"""Their counterparts that multiply in floating point."""

_GROWTH = 4
"""How much larger an optimised graph may be: constants in int8 may become float."""


@dataclass(frozen=True, kw_only=True)
class Int8Coverage:
    """How many of the convolutions and matrix products multiply in int8 when onnxruntime executes the graph."""

    num_int8: int
    float_nodes: tuple[str, ...]
    """`operator name` of every node that multiplies in floating point."""

    @property
    def share(self) -> float:
        """int8 nodes over all nodes; 0 for a graph without convolutions and matrix products."""
        total = self.num_int8 + len(self.float_nodes)
        return self.num_int8 / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """The figures of one ONNX file that depend neither on data nor on timing."""

    num_parameters: int
    flops: int
    size_bytes: int
    size_zip_bytes: int
    """After deflate at level 9."""
    zero_share: float
    """Share of the weights that is exactly zero, see `onnx_zeros`."""
    int8: Int8Coverage


def read_graph_facts(model: bytes, input_shape: tuple[int, ...]) -> GraphFacts:
    """Read all figures off an ONNX file whose rows have the shape `input_shape` (no batch axis).

    Raises:
        ModelError: the file is not a model that onnxruntime loads, or its shapes cannot be inferred.
    """
    graph = load_graph(model)
    return GraphFacts(
        num_parameters=count_parameters(graph),
        flops=count_flops(graph, input_shape),
        size_bytes=len(model),
        size_zip_bytes=len(zlib.compress(model, 9)),
        zero_share=zero_share(graph),
        int8=measure_int8_coverage(model),
    )


def load_graph(model: bytes) -> ModelProto:
    """Parse an ONNX file.

    Raises:
        ModelError: the bytes are not an ONNX model, or its weights lie in other files.
    """
    try:
        graph = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ModelError(f"these {len(model)} bytes are not an ONNX model: {error}") from error
    if not graph.graph.node:
        raise ModelError(f"these {len(model)} bytes are an ONNX model without a single node")
    if outside := [tensor.name for tensor in graph.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]:
        raise ModelError(f"the ONNX model keeps {len(outside)} weights in other files; save it as one file")
    return graph


def optimised_graph(model: bytes) -> GraphProto:
    """Return the graph as onnxruntime executes it on this machine.

    Raises:
        ModelError: onnxruntime cannot load the model.
        OSError: there is no room for temporary files.
    """
    with scratch_folder("graph", _GROWTH * len(model)) as folder:
        path = folder / "optimised.onnx"
        make_session(model, optimized_model=path)
        return onnx.load_model(path, load_external_data=False).graph


def measure_int8_coverage(model: bytes) -> Int8Coverage:
    """Let onnxruntime optimise `model` and count what it will multiply in int8.

    Only the optimised graph tells: a quantised node whose neighbours do not fit runs in floating point.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    nodes = optimised_graph(model).node
    layers = _layers_by_value(load_graph(model).graph)
    return Int8Coverage(
        num_int8=sum(node.op_type in INT8_OPERATORS for node in nodes),
        float_nodes=tuple(
            f"{node.op_type} {layers.get(node.name.removesuffix('_nchwc'), node.name)}".strip()
            for node in nodes
            if node.op_type in FLOAT_OPERATORS
        ),
    )


def _layers_by_value(graph: GraphProto) -> dict[str, str]:
    """Map every value to the layer that it comes from: onnxruntime names blocked convolutions by their output."""
    layers: dict[str, str] = {}
    for node in graph.node:
        source = node.name if node.op_type in FLOAT_OPERATORS else layers.get(node.input[0] if node.input else "", "")
        if source:
            layers.update(dict.fromkeys(node.output, source))
    return layers


def count_parameters(model: ModelProto) -> int:
    """Count the elements of all weights and biases, in whatever type they are stored.

    Scales and zero points, scalars, and shapes and axes (int64 and bool) are not weights. A weight that is
    stored as a codebook counts as what it decodes to.
    """
    model = unpack_codebooks(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    parameters = {name for node in model.graph.node for name in _weight_inputs(node) if name in constants}
    return sum(_num_elements(constants[name]) for name in parameters)


def _weight_inputs(node: NodeProto) -> list[str]:
    """Return the inputs of a node without its scales and zero points."""
    places = _VALUE_INPUTS.get(node.op_type)
    return [name for place, name in enumerate(node.input) if places is None or place in places]


_VALUE_INPUTS = {
    "QuantizeLinear": {0},
    "DequantizeLinear": {0},
    "QLinearConv": {0, 3, 8},
    "QLinearMatMul": {0, 3},
    "ConvInteger": {0, 1},
    "MatMulInteger": {0, 1},
    "QGemm": {0, 3, 6},
}
"""Places of the inputs that carry values, for operators that also take scales and zero points."""


def _num_elements(tensor: TensorProto) -> int:
    if not tensor.dims or tensor.data_type in (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING):
        return 0
    return prod(tensor.dims)
