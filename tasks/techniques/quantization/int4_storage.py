"""Writes 4-bit weights into a graph, packed two to a byte."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.techniques.quantization.blocks import Blocks, block_length, quantise_blocks
from tasks.techniques.quantization.decoders import Decoder

if TYPE_CHECKING:
    from onnx import TensorProto

_FUSED_BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes that onnxruntime's MatMulNBits has kernels for."""

_LARGEST_HALF = 60_000.0
"""Weights up to this have scales that float16 can hold."""


@dataclass(frozen=True)
class Int4Weight:
    """A weight in 4 bits, and what that costs and loses."""

    decoder: Decoder
    num_weights: int
    num_bits: int
    """Stored, scales and zero points included."""
    squared_weights: float
    """Sum over the weights."""
    squared_error: float
    """Sum over the weights of (stored - given) squared."""


def store_for_loading(name: str, weight: np.ndarray, along_rows: bool, block_size: int, symmetric: bool) -> Int4Weight:
    """Store a weight so that it is decoded to float32 when the model is loaded: (Cast(q) - Cast(z)) * s, reshaped.

    Args:
        name: of the initializer that is replaced.
        weight: at least two axes.
        along_rows: whether blocks are cut from weight[i, ...] or else from weight[:, i].
        block_size: most weights in a block.
        symmetric: see `blocks`.
    """
    half_scales = bool(np.abs(weight).max() < _LARGEST_HALF)
    if along_rows:
        length = block_length(weight[0].size, block_size)
        shaped = weight.reshape(-1, length, 1)
    else:
        length = block_length(len(weight), block_size)
        shaped = weight.reshape(len(weight) // length, length, -1)
    blocks = quantise_blocks(shaped, 1, symmetric=symmetric, half_scales=half_scales)
    decoder = _decoder(name, blocks, weight.shape, half_scales)
    return _weight(decoder, blocks, shaped, 16 if half_scales else 32)


def store_for_kernel(name: str, weight_KN: np.ndarray, block_size: int, symmetric: bool) -> Int4Weight:
    """Store the right side of a matrix product so that onnxruntime multiplies by it as it is stored (MatMulNBits).

    Args:
        name: of the initializer that is replaced.
        weight_KN: K is a multiple of `block_size`; see `has_kernel`.
        block_size: weights in a block.
        symmetric: see `blocks`.
    """
    from onnx import helper, numpy_helper

    num_rows, num_columns = weight_KN.shape
    shaped = weight_KN.reshape(num_rows // block_size, block_size, num_columns)
    blocks = quantise_blocks(shaped, 1, symmetric=symmetric, half_scales=False)
    tensors = [
        _levels_tensor(blocks.levels.reshape(weight_KN.shape), f"{name}_int4", symmetric),
        numpy_helper.from_array(blocks.scales[:, 0], f"{name}_scales"),
    ]
    if blocks.zero_points is not None:
        tensors.append(_levels_tensor(blocks.zero_points[:, 0], f"{name}_zero_points", symmetric))
    inputs = [tensor.name for tensor in tensors]
    node = helper.make_node("DequantizeLinear", inputs, [name], axis=0, block_size=block_size)
    return _weight(Decoder(tuple(tensors), (node,)), blocks, shaped, 32)


def has_kernel(weight_shape: tuple[int, ...], block_size: int) -> bool:
    """Tell whether onnxruntime multiplies by a weight [K, N] without decoding it first."""
    return len(weight_shape) == 2 and block_size in _FUSED_BLOCKS and weight_shape[0] % block_size == 0


def _decoder(name: str, blocks: Blocks, shape: tuple[int, ...], half_scales: bool) -> Decoder:
    from onnx import TensorProto, helper, numpy_helper

    symmetric = blocks.zero_points is None
    tensors = [_levels_tensor(blocks.levels, f"{name}_int4", symmetric)]
    nodes = [helper.make_node("Cast", [f"{name}_int4"], [f"{name}_levels"], to=TensorProto.FLOAT)]
    levels, scales = f"{name}_levels", f"{name}_scales"
    if blocks.zero_points is not None:
        tensors.append(_levels_tensor(blocks.zero_points, f"{name}_zero_points", symmetric))
        nodes.append(helper.make_node("Cast", [f"{name}_zero_points"], [f"{name}_zeros"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Sub", [levels, f"{name}_zeros"], [f"{name}_centred"]))
        levels = f"{name}_centred"
    if half_scales:
        tensors.append(numpy_helper.from_array(blocks.scales.astype(np.float16), f"{name}_half_scales"))
        nodes.append(helper.make_node("Cast", [f"{name}_half_scales"], [scales], to=TensorProto.FLOAT))
    else:
        tensors.append(numpy_helper.from_array(blocks.scales, scales))
    tensors.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
    nodes.append(helper.make_node("Mul", [levels, scales], [f"{name}_scaled"]))
    nodes.append(helper.make_node("Reshape", [f"{name}_scaled", f"{name}_shape"], [name]))
    return Decoder(tuple(tensors), tuple(nodes))


def _weight(decoder: Decoder, blocks: Blocks, shaped: np.ndarray, scale_bits: int) -> Int4Weight:
    num_zero_points = 0 if blocks.zero_points is None else blocks.zero_points.size
    return Int4Weight(
        decoder=decoder,
        num_weights=blocks.levels.size,
        num_bits=4 * (blocks.levels.size + num_zero_points) + scale_bits * blocks.scales.size,
        squared_weights=float(np.square(shaped, dtype=np.float64).sum()),
        squared_error=float(np.square(blocks.decoded() - shaped, dtype=np.float64).sum()),
    )


def _levels_tensor(levels: np.ndarray, name: str, symmetric: bool) -> "TensorProto":
    import ml_dtypes
    from onnx import numpy_helper

    tensor: TensorProto = numpy_helper.from_array(levels.astype(ml_dtypes.int4 if symmetric else ml_dtypes.uint4), name)
    return tensor
