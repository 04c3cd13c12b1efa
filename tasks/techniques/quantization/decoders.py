"""Weights stored in few bits and decoded by ordinary nodes, which onnxruntime folds away when it loads the model.

The file is small; the running model is the float model. DequantizeLinear would not do: onnxruntime keeps it for the
fusion with int8 kernels, so a float convolution would decode its weight on every request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

LEAST_ELEMENTS = 64
"""Smaller tensors are left alone: a node costs some 20 bytes in the file."""


@dataclass(frozen=True)
class Decoder:
    """Stored tensors, and the nodes that make the original of them; the last node gives it."""

    tensors: "tuple[TensorProto, ...]"
    nodes: "tuple[NodeProto, ...]"


def decode_at_load(graph: "GraphProto", decoders: Mapping[str, Decoder]) -> None:
    """Replace the initializers named by `decoders`, in place."""
    kept = [tensor for tensor in graph.initializer if tensor.name not in decoders]
    kept += [tensor for decoder in decoders.values() for tensor in decoder.tensors]
    nodes = [node for decoder in decoders.values() for node in decoder.nodes]
    nodes += list(graph.node)
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    graph.ClearField("node")
    graph.node.extend(nodes)


def user_of(graph: "GraphProto", tensor: str) -> str:
    """Return `operator layer` of the first node that takes `tensor`, to name it in messages."""
    node = next((node for node in graph.node if tensor in node.input), None)
    return tensor if node is None else f"{node.op_type} {node.name or node.output[0]}"
