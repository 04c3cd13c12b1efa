"""Turns a torch network into one self-contained ONNX file with a dynamic batch axis."""

import ast
import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tasks.contracts.errors import ModelError
from tasks.models.architecture import Network
from tasks.models.onnx_codebook import pack_codebooks
from tasks.models.onnx_compact import NAMED_OPERATORS, compact
from tasks.models.parametrizations import without_parametrizations
from tasks.models.sharing import codebooks_of

OPSET = 21
"""The first opset with 4-bit and 16-bit initializers, so that later stages need not convert the graph."""

_EXAMPLE_ROWS = 2  # torch.export takes a batch of 1 for a constant
_UNKNOWN_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


def to_onnx(network: Network, input_shape: tuple[int, ...], input_dtype: str) -> bytes:
    """Export `network` as it runs in evaluation mode; equal networks give equal bytes.

    Batch norms behind convolutions are folded into them, a mean over height and width becomes a
    global average pooling (which has an int8 form), shared weights are stored as codebooks and short
    indices, and what no runtime needs is taken out.

    Args:
        network: The network; it is left as it is.
        input_shape: Shape of one row, without the batch axis.
        input_dtype: numpy name of the rows' type, `float32` or `int64`.

    Returns:
        An ONNX file with input `input` [batch, *input_shape] and output `output` [batch, ...]. Nodes
        of layers with weights carry the path of their torch module.

    Raises:
        ModelError: an operator has no ONNX form, the control flow depends on the data, or the batch
            size is built into the network.
    """
    factory = network.architecture.factory
    example = torch.from_numpy(np.zeros((_EXAMPLE_ROWS, *input_shape), input_dtype))
    exported = _exported(without_parametrizations(copy.deepcopy(network.module).cpu().eval()), example, factory)
    _require_dynamic_batch(exported, factory)
    _pool_instead_of_mean(exported)
    _name_layers(exported)
    if codebooks := codebooks_of(network.module):
        exported = pack_codebooks(exported, list(codebooks.values()))
    result = compact(exported)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the ONNX export of {factory!r} is not a valid ONNX model: {error}") from error
    serialised: bytes = result.SerializeToString(deterministic=True)
    return serialised


def _exported(module: torch.nn.Module, example: torch.Tensor, factory: str) -> ModelProto:
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ModelError(_export_failure(factory, error)) from error
    assert program is not None, "the dynamo exporter always returns a program"
    return program.model_proto


def _export_failure(factory: str, error: BaseException) -> str:
    """Say which operator has no ONNX form, or else what the exporter's innermost error says first."""
    if unknown := _UNKNOWN_OPERATOR.search(str(error)):
        return (
            f"{factory!r} cannot be exported: the operator {unknown[1]} has no ONNX form; use another one in forward()"
        )
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    reason = (str(innermost).strip().splitlines() or ["no message"])[0].rstrip(".")
    return (
        f"{factory!r} cannot be exported: {type(innermost).__name__}: {reason}. "
        "forward() must take one tensor [batch, ...], and its control flow and batch size must not depend on the data"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and graph dumps off the terminal; its errors still raise."""
    logger = logging.getLogger("torch")
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _require_dynamic_batch(model: ModelProto, factory: str) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != "batch":
            fixed = [dim.dim_param or dim.dim_value for dim in dims]
            raise ModelError(
                f"{factory!r} cannot be exported: its {value.name} has the shape {fixed}, whose first axis is not the "
                "batch; do not build the batch size into forward()"
            )


def _pool_instead_of_mean(model: ModelProto) -> None:
    """Write ReduceMean over height and width as GlobalAveragePool, then Flatten where the axes were dropped.

    onnxruntime has an int8 GlobalAveragePool and no int8 ReduceMean.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4 or node.input[1] not in constants:
            nodes.append(node)
            continue
        axes = {int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]])}
        keep_axes = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        if axes != {2, 3}:
            nodes.append(node)
            continue
        pooled = node.output[0] if keep_axes else f"{node.output[0]}_pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled]))
        if not keep_axes:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]]))
    graph.ClearField("node")
    graph.node.extend(nodes)


def _name_layers(model: ModelProto) -> None:
    """Name the nodes of weighted layers by the path of their torch module, with a number where it repeats."""
    weights = {tensor.name for tensor in model.graph.initializer}
    seen: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in NAMED_OPERATORS:
            path = _module_path(node, weights)
            seen[path] = seen.get(path, 0) + 1
            node.name = path if seen[path] == 1 else f"{path}_{seen[path]}"


def _module_path(node: NodeProto, weights: set[str]) -> str:
    for name in node.input[1:]:
        if name in weights and name.endswith(".weight"):
            return str(name).removesuffix(".weight")
    notes = {note.key: note.value for note in node.metadata_props}
    *modules, operation = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "['']"))
    module = modules[-1] if modules else ""
    if weights.isdisjoint(node.input):
        module = f"{module}.{operation}".strip(".")  # a product of activations inside the module
    return module or node.op_type
