"""Tells sums, products and pools between convolutions, which are worth running in int8, from those of transformers."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto

_CONVERTED = frozenset({"Add", "Mul", "Sigmoid", "AveragePool", "GlobalAveragePool"})
"""Operators that compute, so that int8 costs precision: worth it only where the values are int8 already."""

_FOLLOW = frozenset(
    {"Relu", "Clip", "LeakyRelu", "MaxPool", "Concat", "Split", "Slice", "Pad", "Resize", "HardSigmoid", "HardSwish"}
)
"""What else a convolution's output may pass through and still be a feature map [B, C, H, W]."""


def off_image_path(graph: "GraphProto", excluded: Collection[str]) -> set[str]:
    """Return the names of the sums, products and pools whose inputs come from no int8 convolution.

    Follows feature maps from the convolutions on; flattening and transposing ends them.

    Args:
        graph: float, in topological order as ONNX demands.
        excluded: names of the nodes that stay float.
    """
    feature_maps: set[str] = set()
    off = set()
    for node in graph.node:
        in_int8 = node.name not in excluded
        follows = node.op_type in (_CONVERTED | _FOLLOW) and not feature_maps.isdisjoint(node.input)
        if in_int8 and (node.op_type == "Conv" or follows):
            feature_maps.update(node.output)
        elif node.op_type in _CONVERTED:
            off.add(node.name)
    return off
