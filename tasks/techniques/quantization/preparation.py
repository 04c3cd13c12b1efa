"""Makes a float ONNX graph ready for being quantised."""

from typing import TYPE_CHECKING

from tasks.contracts.errors import TechniqueError

if TYPE_CHECKING:
    from onnx import ModelProto

_COPIES = 5
"""Of the model, that onnxruntime and we write: as given, optimised, twice with shapes, as prepared."""


def prepared(model: bytes, kind: str) -> "ModelProto":
    """Infer shapes, let onnxruntime fold constants and fuse what does not depend on the machine, and name all nodes.

    Raises:
        ModelError: the bytes are not an ONNX model.
        TechniqueError: the model is quantised already.
        OSError: there is no room for temporary files.
    """
    import onnx
    from onnxruntime.quantization import quant_pre_process

    from tasks.evaluation.onnx_graph import load_graph
    from tasks.evaluation.scratch import scratch_folder

    given = load_graph(model)
    require_float(given, kind)
    standard = all(node.domain == "" for node in given.graph.node)  # else onnx itself cannot infer all types
    with scratch_folder("quantize", _COPIES * len(model)) as folder:
        before, after = folder / "given.onnx", folder / "prepared.onnx"
        onnx.save_model(given, before)
        quant_pre_process(before, after, skip_symbolic_shape=standard)
        result = onnx.load_model(after)
    for position, node in enumerate(result.graph.node):
        node.name = node.name.removesuffix("/MatMulAddFusion") or f"{node.op_type}_{position}"
    return result


def require_float(model: "ModelProto", kind: str) -> None:
    """Stop what is quantised already.

    Raises:
        TechniqueError: the graph converts to or from integers.
    """
    if any(node.op_type in _QUANTISED for node in model.graph.node):
        raise TechniqueError(f"{kind} takes a float model, this one is quantised already; put it before the other")


_QUANTISED = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger",
        "ConvInteger", "MatMulNBits", "GatherBlockQuantized",
    }
)  # fmt: skip
