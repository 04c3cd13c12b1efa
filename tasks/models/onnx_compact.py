"""Takes out of an ONNX file what no runtime needs: of a small int8 network, a third of the bytes is names and notes.

What an operator computes never changes: only notes, names, duplicates and values equal to the standard's defaults go.
"""

from collections.abc import Iterator
from itertools import count, product

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

NAMED_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators whose node names stay: they name the layer in plans, messages and coverage reports."""

_SPATIAL_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0}
_SPATIAL_OPERATORS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_ZERO_POINT = 2
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def compact(model: ModelProto) -> ModelProto:
    """Return a smaller model that computes the same.

    Names of inputs, outputs and weighted layers stay. A model with nested graphs or local functions
    only loses its notes, since names there may reach across borders.
    """
    result = ModelProto()
    result.CopyFrom(model)
    _strip_notes(result)
    if result.functions or any(_is_nested(node) for node in result.graph.node):
        return result
    _drop_unused_domains(result)
    _drop_default_attributes(result)
    _merge_equal_initializers(result.graph)
    _shorten_names(result.graph)
    return result


def _strip_notes(model: ModelProto) -> None:
    """Clear documentation, metadata, the inferred shapes of inner values, and who wrote the file with which version."""
    for name in ("producer_version", "domain", "model_version"):
        model.ClearField(name)
    model.producer_name = "stillhouse"
    graph = model.graph
    graph.name = "main"
    graph.ClearField("value_info")
    graph.ClearField("quantization_annotation")
    for part in (model, graph, *graph.input, *graph.output, *graph.initializer, *graph.node):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _is_nested(node: NodeProto) -> bool:
    return any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)


def _drop_unused_domains(model: ModelProto) -> None:
    used = {"", *(node.domain for node in model.graph.node)}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)


def _drop_default_attributes(model: ModelProto) -> None:
    """Remove attributes that say what the operator's schema says anyway."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, versions[node.domain], node.domain):
            continue  # an operator of onnxruntime's own, whose defaults are not known here
        schema = onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain)
        kept = [attribute for attribute in node.attribute if not _is_default(attribute, schema)]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _is_default(attribute: AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    if schema.name in _SPATIAL_OPERATORS and attribute.name in _SPATIAL_DEFAULTS:
        return set(attribute.ints) == {_SPATIAL_DEFAULTS[attribute.name]}
    declared = schema.attributes.get(attribute.name)
    if declared is None or declared.default_value.type != attribute.type:
        return False
    value, default = (onnx.helper.get_attribute_value(each) for each in (attribute, declared.default_value))
    return bool(value == default)


def _merge_equal_initializers(graph: GraphProto) -> None:
    """Keep one of several equal initializers, and none that is unused, in the order of first use.

    Zero points of int8 weights stay apart: where a processor has no VNNI, onnxruntime makes weights and zero points
    unsigned, one layer after the other, and fails on one that it has met before.
    """
    given = {tensor.name: tensor for tensor in graph.initializer}
    outside = [value.name for value in (*graph.input, *graph.output)]
    kept = {name: given[name] for name in outside if name in given}
    first_of: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in given or name in kept:
                continue
            if _is_int8_zero_point(node, position, given[name]):
                first = f"{name} of {node.output[0]}"
                kept[first] = _renamed(given[name], first)
            else:
                first = first_of.setdefault(_content(given[name]), name)
                kept[first] = given[first]
            node.input[position] = first
    merged = [_packed(tensor) for tensor in kept.values()]
    graph.ClearField("initializer")
    graph.initializer.extend(merged)


def _is_int8_zero_point(node: NodeProto, position: int, tensor: TensorProto) -> bool:
    return node.op_type == "DequantizeLinear" and position == _ZERO_POINT and tensor.data_type == TensorProto.INT8


def _renamed(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _content(tensor: TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    packed = _packed(tensor)
    content = packed.raw_data or packed.SerializeToString()
    return packed.data_type, tuple(packed.dims), content


def _packed(tensor: TensorProto) -> TensorProto:
    """Return the tensor with its values as raw bytes, the one form in which equal values are equal bytes."""
    if tensor.HasField("raw_data") or tensor.data_type == TensorProto.STRING:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


def _shorten_names(graph: GraphProto) -> None:
    outside = [value.name for value in (*graph.input, *graph.output)]
    short_names = _short_names(set(outside))
    renamed = {name: name for name in ("", *outside)}
    for node in graph.node:
        if node.op_type not in NAMED_OPERATORS:
            node.ClearField("name")
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name not in renamed:
                    renamed[name] = next(short_names)
                names[position] = renamed[name]
    for tensor in graph.initializer:
        tensor.name = renamed[tensor.name]


def _short_names(taken: set[str]) -> Iterator[str]:
    """Yield 0, 1, … z, 00, 01, …, leaving out those in `taken`."""
    for length in count(1):
        for digits in product(_DIGITS, repeat=length):
            if (name := "".join(digits)) not in taken:
                yield name
