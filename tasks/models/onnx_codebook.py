"""Weights of few values, stored as a codebook and 4- or 8-bit indices that the graph itself decodes.

The decoding is `Cast -> [Add of each channel's place in the codebook] -> Gather -> [Mul by each
channel's scale]`, all on constants: a runtime folds it when it loads the model, and runs the model as
if the weight stood in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tasks.models.codebook import Codebook
from tasks.models.codebook_search import codebook_of, rescaled

_FIRST_OPSET, _FIRST_IR = 21, 10
"""The first versions with 4-bit initializers and with Cast from them."""

_WEIGHT_TYPES = (TensorProto.FLOAT, TensorProto.INT8)
_INDEX_TYPES = (TensorProto.UINT4, TensorProto.UINT8)


@dataclass(frozen=True)
class PackedWeight:
    """One weight that the graph decodes from a codebook."""

    name: str
    """The decoded value."""
    nodes: tuple[NodeProto, ...]
    codebook: Codebook


def pack_codebooks(model: ModelProto, known: Sequence[Codebook] = ()) -> ModelProto:
    """Store float32 and int8 weights of few values as codebooks where that saves bytes.

    Found are weights with at most 16 values (256 for float32) as a whole, or with at most 16 in each
    output channel. Those decode to the very bits.

    Args:
        model: The graph; it is left as it is.
        known: Codebooks of the network's weights. A float32 weight that is one of them with its output
            channels multiplied (by a folded batch norm) is stored as that codebook and one scale per
            channel; it decodes to within a rounding error.

    Returns:
        A graph that computes the same. One with nested graphs or local functions, or from before
        opset 21, is returned unchanged.
    """
    result = ModelProto()
    result.CopyFrom(model)
    if not _can_pack(result):
        return result
    graph = result.graph
    kept: list[TensorProto] = []
    decoding: list[NodeProto] = []
    outside = {value.name for value in (*graph.input, *graph.output)}
    for tensor in graph.initializer:
        packed = _packed(tensor, graph, known) if _is_weight(tensor) and tensor.name not in outside else None
        if packed is None:
            kept.append(tensor)
        else:
            kept += packed[0]
            decoding += packed[1]
    nodes = [*decoding, *graph.node]
    graph.ClearField("initializer")
    graph.ClearField("node")
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return result


def unpack_codebooks(model: ModelProto) -> ModelProto:
    """Return the graph with all weights of `packed_weights` as plain initializers."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for weight in packed_weights(result):
        for node in weight.nodes:
            graph.node.remove(node)
        graph.initializer.append(numpy_helper.from_array(weight.codebook.decoded(), weight.name))
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    plain = [tensor for tensor in graph.initializer if tensor.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(plain)
    return result


def packed_weights(model: ModelProto) -> list[PackedWeight]:
    """Return the weights that `pack_codebooks` has packed, in the order of the graph."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in constants]
    found = (_parsed(node, constants, makers, readers) for node in gathers)
    return [weight for weight in found if weight is not None]


def _can_pack(model: ModelProto) -> bool:
    nested = any(attribute.type == AttributeProto.GRAPH for node in model.graph.node for attribute in node.attribute)
    version = max((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=0)
    return not nested and not model.functions and version >= _FIRST_OPSET and model.ir_version >= _FIRST_IR


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type in _WEIGHT_TYPES and len(tensor.dims) >= 2


def _packed(
    tensor: TensorProto, graph: GraphProto, known: Sequence[Codebook]
) -> tuple[list[TensorProto], list[NodeProto]] | None:
    """Return the smallest codebook form of a weight, or None if the weight itself is no larger."""
    values = numpy_helper.to_array(tensor)
    books = [rescaled(values, book) for book in known] if values.dtype == np.float32 else []
    books.append(codebook_of(values, _channel_axis(tensor.name, values.ndim, graph)))
    forms = [_decoding(tensor.name, book) for book in books if book is not None]
    smallest = min(forms, key=_num_bytes, default=None)
    return smallest if smallest is not None and _num_bytes(smallest) < tensor.ByteSize() else None


def _num_bytes(form: tuple[list[TensorProto], list[NodeProto]]) -> int:
    return sum(part.ByteSize() for parts in form for part in parts)


def _channel_axis(name: str, num_axes: int, graph: GraphProto) -> int:
    """Return the axis of a weight's output channels, as its first reader has it."""
    reader = next((node for node in graph.node if name in node.input), None)
    if reader is None:
        return 0
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in reader.attribute}
    if reader.op_type == "DequantizeLinear":
        return _channel_axis(reader.output[0], num_axes, graph)
    if reader.op_type == "ConvTranspose":
        return 1
    if reader.op_type == "MatMul" or (reader.op_type == "Gemm" and not attributes.get("transB", 0)):
        return num_axes - 1
    return 0


def _decoding(name: str, book: Codebook) -> tuple[list[TensorProto], list[NodeProto]]:
    """Return the initializers and nodes that make `book`'s weight under `name`."""
    entries, offset = f"{name}_entries", f"{name}_places"
    tensors = [
        _index_tensor(book, f"{name}_indices"),
        numpy_helper.from_array(book.values_GK.reshape(-1), f"{name}_codebook"),
    ]
    nodes = [helper.make_node("Cast", [f"{name}_indices"], [entries], to=TensorProto.INT32)]
    num_groups, num_entries = book.values_GK.shape
    if num_groups > 1:
        first_entries = book.along_channels(book.groups_O * num_entries).astype(np.int32)
        tensors.append(numpy_helper.from_array(first_entries, f"{name}_offsets"))
        nodes.append(helper.make_node("Add", [entries, f"{name}_offsets"], [offset]))
        entries = offset
    gathered = name if book.scales_O is None else f"{name}_unscaled"
    nodes.append(helper.make_node("Gather", [f"{name}_codebook", entries], [gathered]))
    if book.scales_O is not None:
        tensors.append(numpy_helper.from_array(book.along_channels(book.scales_O), f"{name}_scales"))
        nodes.append(helper.make_node("Mul", [gathered, f"{name}_scales"], [name]))
    return tensors, nodes


def _index_tensor(book: Codebook, name: str) -> TensorProto:
    """Store two indices to a byte, the first in the lower half, where a group has at most 16 entries."""
    indices = np.ascontiguousarray(book.indices).reshape(-1)
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=book.shape)
    if book.values_GK.shape[1] <= 16:
        even = np.pad(indices, (0, len(indices) % 2))
        tensor.data_type, indices = TensorProto.UINT4, even[0::2] | even[1::2] << 4
    tensor.raw_data = indices.tobytes()
    return tensor


def _parsed(
    gather: NodeProto,
    constants: dict[str, TensorProto],
    makers: dict[str, NodeProto],
    readers: dict[str, list[NodeProto]],
) -> PackedWeight | None:
    """Read the decoding around a Gather, or return None if it is none."""
    nodes = [gather]
    maker = makers.get(gather.input[1])
    offsets: TensorProto | None = None
    if maker is not None and maker.op_type == "Add":
        nodes.insert(0, maker)
        offsets = constants.get(maker.input[1])
        maker = makers.get(maker.input[0]) if offsets is not None else None
    if maker is None or maker.op_type != "Cast" or maker.input[0] not in constants:
        return None
    if constants[maker.input[0]].data_type not in _INDEX_TYPES or len(constants[gather.input[0]].dims) != 1:
        return None
    nodes.insert(0, maker)
    name, scales = gather.output[0], None
    following = readers.get(name, [])
    if len(following) == 1 and following[0].op_type == "Mul" and following[0].input[1] in constants:
        scales = numpy_helper.to_array(constants[following[0].input[1]])
        name = following[0].output[0]
        nodes.append(following[0])
    values = numpy_helper.to_array(constants[gather.input[0]])
    indices = numpy_helper.to_array(constants[maker.input[0]]).astype(np.uint8)
    return PackedWeight(name, tuple(nodes), _restored(values, indices, offsets, scales))


def _restored(
    values: np.ndarray, indices: np.ndarray, offsets: TensorProto | None, scales: np.ndarray | None
) -> Codebook:
    """Undo `_decoding`."""
    places = np.zeros([1] * indices.ndim, np.int32) if offsets is None else numpy_helper.to_array(offsets)
    shape = places.shape if scales is None else np.broadcast_shapes(places.shape, scales.shape)
    axis = next((axis for axis, size in enumerate(shape) if size > 1), 0)
    steps = np.unique(np.diff(np.unique(places)))
    num_entries = int(steps[0]) if len(steps) else len(values)
    groups_O = np.broadcast_to(places.reshape(-1) // num_entries, indices.shape[axis]).astype(np.int64)
    scales_O = None if scales is None else np.broadcast_to(scales.reshape(-1), indices.shape[axis])
    return Codebook(values.reshape(-1, num_entries), indices, groups_O, scales_O, axis=axis)
