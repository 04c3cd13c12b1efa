"""Embedding tables in int8: rows are looked up as integers and multiplied by their own scale.

Row v of the table becomes q_v = clip(round(e_v / s_v), -127, 127) with s_v = max|e_v| / 127. Only the rows that a
request asks for are decoded, so the table stays a quarter of its size in memory too.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from tasks.techniques.quantization.decoders import LEAST_ELEMENTS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def embedding_lookups(graph: "GraphProto", excluded: Collection[str] = ()) -> "list[NodeProto]":
    """Return the nodes that look rows up in a float table [V, D] which nothing else uses."""
    from onnx import TensorProto

    tables = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims) >= LEAST_ELEMENTS
    }
    lookups = [node for node in graph.node if _looks_up_rows(node) and node.input[0] in tables]
    users = [name for node in graph.node for name in node.input]
    return [node for node in lookups if users.count(node.input[0]) == 1 and node.name not in excluded]


def quantise_embeddings(model: "ModelProto", excluded: Collection[str]) -> int:
    """Store the embedding tables of `model` in int8, in place; `excluded` names lookups that stay float.

    Returns:
        How many tables are in int8.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    lookups = {node.output[0]: node for node in embedding_lookups(graph, excluded)}
    tables = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] not in lookups:
            nodes.append(node)
            continue
        table, ids, output = node.input[0], node.input[1], node.output[0]
        rows_VD, scales_V1 = quantise_rows(numpy_helper.to_array(tables[table]))
        graph.initializer.remove(tables[table])
        graph.initializer.append(numpy_helper.from_array(rows_VD, f"{table}_int8"))
        graph.initializer.append(numpy_helper.from_array(scales_V1, f"{table}_scale"))
        names = [f"{output}_{part}" for part in ("int8", "float", "scale")]
        nodes += [
            helper.make_node("Gather", [f"{table}_int8", ids], [names[0]]),
            helper.make_node("Cast", [names[0]], [names[1]], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table}_scale", ids], [names[2]]),
            helper.make_node("Mul", [names[1], names[2]], [output]),
        ]
    graph.ClearField("node")
    graph.node.extend(nodes)
    return len(lookups)


def quantise_rows(table_VD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 rows [V, D] and float32 scales [V, 1] as the head of this module says."""
    scales_V1 = (np.abs(table_VD).max(axis=1, keepdims=True) / 127).astype(np.float32)
    scales_V1[scales_V1 == 0] = 1.0
    return np.clip(np.round(table_VD / scales_V1), -127, 127).astype(np.int8), scales_V1


def _looks_up_rows(node: "NodeProto") -> bool:
    return node.op_type == "Gather" and not any(
        attribute.name == "axis" and attribute.i for attribute in node.attribute
    )
