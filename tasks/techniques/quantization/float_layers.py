"""Which layers of an ONNX graph a quantiser works on, and which stay float by wish."""

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.contracts.errors import TechniqueError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators that multiply, and that have int8 kernels."""

KeepFloat = Annotated[
    tuple[str, ...],
    Field(description="Globs on layer names or operators that stay float, such as 'blocks.0.*' or 'Gemm'."),
]


def layers_of(model: "ModelProto", kind: str) -> "list[NodeProto]":
    """Return the nodes that can be quantised, in the graph's order.

    Raises:
        TechniqueError: there are none.
    """
    layers = [node for node in model.graph.node if node.op_type in LAYERS]
    if not layers:
        operators = sorted({node.op_type for node in model.graph.node})
        raise TechniqueError(f"{kind} found no {', '.join(LAYERS)} to quantise among {operators}")
    return layers


def activation_products(model: "ModelProto") -> "list[NodeProto]":
    """Return the matrix products of two activations, such as attention's scores and sums."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and constants.isdisjoint(node.input)]


def kept_float(model: "ModelProto", globs: Sequence[str], first_last: bool, kind: str) -> "list[NodeProto]":
    """Return the nodes that stay float: those that a glob matches and, if wished, the first and last layer.

    Raises:
        TechniqueError: a glob matches no node, or the graph has no layers at all.
    """
    layers = layers_of(model, kind)
    kept = [layers[0], layers[-1]] if first_last else []
    for glob in globs:
        matched = [
            node
            for node in model.graph.node
            if fnmatch.fnmatchcase(node.name, glob) or fnmatch.fnmatchcase(node.op_type, glob)
        ]
        if not matched:
            names = ", ".join(node.name for node in layers)
            raise TechniqueError(f"keep_float {glob!r} matches no node; the layers are {names}")
        kept += [node for node in matched if node not in kept]
    return kept
