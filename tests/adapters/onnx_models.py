"""Tiny ONNX models and examples for tests of the registry."""

import io

import numpy as np
from onnx import TensorProto, helper


def linear_model(weight: float) -> bytes:
    """`logits` [n, 3] = `input` [n, 4] times a matrix of `weight`; another weight is another digest."""
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.full(12, weight, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [matrix],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def example_rows() -> bytes:
    """Five rows as the registry takes them: an npz with `x`."""
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones((5, 4), np.float32))
    return buffer.getvalue()
