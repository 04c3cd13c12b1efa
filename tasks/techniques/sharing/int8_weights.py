"""The int8 weights of a QDQ graph, and their clustering to few integers."""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tasks.techniques.sharing.integer_clustering import best_integers

_DEFAULT_AXIS = 1
"""Of DequantizeLinear, by the standard."""


@dataclass(frozen=True)
class Int8Weight:
    """A weight that DequantizeLinear turns into floats."""

    name: str
    layer: str
    """Name of the node that the weight belongs to, or of the weight where that node has none."""
    values: np.ndarray
    """int8."""
    scales: np.ndarray
    """float32, broadcasts over `values`: a real weight is its scale times its integer."""

    def energy_of(self, integers: np.ndarray) -> float:
        """Return the summed squares of the real weights that `integers` (of this shape) stand for."""
        return float(((integers * self.scales.astype(np.float64)) ** 2).sum())


def int8_weights(model: ModelProto) -> list[Int8Weight]:
    """Return the symmetric int8 weights of two axes or more, in the order of the graph."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    return [
        _weight(node, constants, readers)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in constants
        and constants[node.input[0]].data_type == TensorProto.INT8
        and len(constants[node.input[0]].dims) >= 2
        and node.input[1] in constants
        and _is_symmetric(node, constants)
    ]


def clustered(weight: Int8Weight, num_centroids: int) -> np.ndarray:
    """Return int8 values of which at most `num_centroids` differ; zeros stay zero.

    The squared change of the real weights is as small as it can be: a value's mass is the sum of the
    squared scales of the weights that have it.
    """
    distinct, inverse = np.unique(weight.values, return_inverse=True)
    squares = np.broadcast_to(weight.scales.astype(np.float64) ** 2, weight.values.shape)
    mass = np.bincount(inverse.reshape(-1), weights=squares.reshape(-1), minlength=len(distinct))
    mapped = best_integers(distinct.astype(np.int64), mass, num_centroids)
    return mapped.astype(np.int8)[inverse].reshape(weight.values.shape)


def _weight(node: NodeProto, constants: dict[str, TensorProto], readers: dict[str, NodeProto]) -> Int8Weight:
    values, scales = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    if scales.size > 1:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axis = attributes.get("axis", _DEFAULT_AXIS) % values.ndim
        scales = scales.reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    reader = readers.get(node.output[0])
    return Int8Weight(node.input[0], (reader.name if reader else "") or node.input[0], values, scales)


def _is_symmetric(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Return whether the zero point is 0, so that a weight of zero is the integer zero."""
    if len(node.input) < 3:
        return True
    zero_point = constants.get(node.input[2])
    return zero_point is not None and not numpy_helper.to_array(zero_point).any()
