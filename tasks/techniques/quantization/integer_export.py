"""From the simulated network to an ONNX file that onnxruntime runs in int8.

The simulation's modules are swapped for such as say QuantizeLinear and DequantizeLinear when exported,
and weights for their integers. Weights of four bits are stored as INT4, which onnxruntime turns into
int8 once, when it loads the model, so that they cost half the bytes and run at the speed of int8.
"""

import copy
import re
from collections.abc import Collection
from typing import cast

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from tasks.contracts.model import Architecture
from tasks.evaluation.onnx_graph import Int8Coverage
from tasks.models.architecture import Network
from tasks.models.onnx_compact import NAMED_OPERATORS, compact
from tasks.models.onnx_export import OPSET, to_onnx
from tasks.models.parametrizations import without_parametrizations
from tasks.techniques.quantization.fake_quantize import ActivationQuantizer, OnGrid
from tasks.techniques.quantization.placement import QuantizedLayer
from tasks.techniques.quantization.simulation import Simulation, weight_quantizer_of

_LATER_CALL = re.compile(r"_\d+$")
"""What the exporter appends to the name of a layer that is called again."""

_FOUR_BIT_MARK = torch.int16
"""Type in which 4-bit codes pass through the exporter, which has none of their own; nothing else has it."""


def integer_onnx(
    simulation: Simulation, architecture: Architecture, input_shape: tuple[int, ...], input_dtype: str
) -> bytes:
    """Export the simulated network; equal simulations give equal bytes.

    Args:
        simulation: settled; it is left as it is.
        architecture: of the float network, to name it in messages.
        input_shape: shape of one row, without the batch axis.
        input_dtype: numpy name of the rows' type.

    Raises:
        ModelError: an operator has no ONNX form, or the batch size is built into the network.
    """
    module = copy.deepcopy(simulation.module).cpu().eval()
    quantizers = {path: each for path, each in module.named_modules() if isinstance(each, ActivationQuantizer)}
    for path, marker in list(module.named_modules()):
        if isinstance(marker, OnGrid):
            module.set_submodule(path, QuantizeDequantize(quantizers[marker.quantizer]))
    for path, layer in simulation.layers.items():
        source = quantizers.get(layer.input_quantizer or "")
        module.set_submodule(path, _integer_form(module.get_submodule(path), layer, source))
    for path, quantizer in quantizers.items():
        module.set_submodule(path, QuantizeDequantize(quantizer))
    model = onnx.load_model_from_string(to_onnx(Network(architecture, module), input_shape, input_dtype))
    _name_layers(model.graph, simulation.layers.keys())
    _store_four_bits(model.graph)
    result: bytes = compact(model).SerializeToString(deterministic=True)
    return result


def float_by_wish(simulation: Simulation, coverage: Int8Coverage) -> list[str]:
    """Return the nodes that multiply in float as they were meant to: ignored layers, attention's products."""
    names = {node: _LATER_CALL.sub("", node.partition(" ")[2]) for node in coverage.float_nodes}
    return [node for node, name in names.items() if name not in simulation.layers]


class QuantizeDequantize(nn.Module):
    """QuantizeLinear to uint8 and back, as the exporter sees it."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.register_buffer("scale", quantizer.scale.detach().clone())
        self.register_buffer("zero_point", quantizer.zero_point.to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Return a value like `x`."""
        codes = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, self.scale, self.zero_point), dtype=torch.uint8, shape=x.shape, version=OPSET
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (codes, self.scale, self.zero_point), dtype=torch.float32, shape=x.shape, version=OPSET
        )


class Dequantized(nn.Module):
    """Stored integers with one scale for each position on `axis`."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, axis: int, *, say_zero_point: bool = False) -> None:
        """Take the integers; `say_zero_point` writes the zeros that the standard takes for granted."""
        super().__init__()
        self.axis = axis
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("zero_point", torch.zeros(len(scale), dtype=codes.dtype) if say_zero_point else None)

    def forward(self) -> Tensor:
        """Return float32 of the shape of the codes."""
        inputs = (self.codes, self.scale) if self.zero_point is None else (self.codes, self.scale, self.zero_point)
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            inputs,
            {"axis": self.axis},
            dtype=torch.float32,
            shape=self.codes.shape,
            version=OPSET,
        )


class _IntegerConvolution(nn.Module):
    """A convolution whose weights are stored as integers; its bias stays float, onnxruntime rounds it when it loads."""

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, codes: Tensor, scale_C: Tensor) -> None:
        super().__init__()
        self.weight = Dequantized(codes, scale_C, axis=0)
        self.layer = cast(nn.Conv2d, without_parametrizations(layer))
        self.layer.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer._conv_forward(x, self.weight(), self.layer.bias))


class _IntegerProduct(nn.Module):
    """A linear layer over rows [B, F]: one Gemm, fused only if the bias is int32 and the zero points are said."""

    def __init__(self, layer: nn.Linear, codes: Tensor, scale_C: Tensor, input_scale: Tensor) -> None:
        super().__init__()
        self.weight = Dequantized(codes, scale_C, axis=0, say_zero_point=True)
        step_C = scale_C.double() * input_scale.double()
        bias_C = (layer.bias.detach().double() / step_C).round().to(torch.int32)
        self.bias = Dequantized(bias_C, step_C.float(), axis=0)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight(), self.bias())


class _IntegerProductOfMany(nn.Module):
    """A linear layer over more axes, or without bias: a MatMul with the weights stored as [in, out]."""

    def __init__(self, layer: nn.Linear, codes: Tensor, scale_C: Tensor) -> None:
        super().__init__()
        self.weight = Dequantized(codes.T, scale_C, axis=1)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        product = x.matmul(self.weight())
        return product if self.bias is None else product + self.bias


class _IntegerEmbedding(nn.Module):
    """An embedding that looks integers up and scales the rows that it found."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale_C[:, None].detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.codes).to(torch.float32) * functional.embedding(ids, self.scale)


def _integer_form(layer: nn.Module, placed: QuantizedLayer, source: ActivationQuantizer | None) -> nn.Module:
    """Return the module that stands for a simulated layer in the exported graph."""
    quantizer = weight_quantizer_of(layer)
    with torch.no_grad():
        codes, scale_C = quantizer.codes(cast(Tensor, layer.weight)), quantizer.scale
    if quantizer.bits == 4:
        codes = codes.to(_FOUR_BIT_MARK)
    if isinstance(layer, nn.Embedding):
        return _IntegerEmbedding(codes, scale_C)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return _IntegerConvolution(layer, codes, scale_C)
    assert isinstance(layer, nn.Linear)
    assert source is not None
    if placed.num_axes == 2 and layer.bias is not None:
        return _IntegerProduct(layer, codes, scale_C, source.scale)
    return _IntegerProductOfMany(layer, codes, scale_C)


def _name_layers(graph: GraphProto, paths: Collection[str]) -> None:
    """Name nodes by their layers alone: with rounded weights the exporter's names end in the torch function."""
    for node in graph.node:
        path = node.name.rpartition(".")[0]
        if node.op_type in NAMED_OPERATORS and node.name not in paths and path in paths:
            node.name = path


def _store_four_bits(graph: GraphProto) -> None:
    """Store marked weights as INT4 with a Cast behind them, and their zero points as int8."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.INT16:
            continue
        codes = numpy_helper.to_array(tensor)
        name = tensor.name
        if codes.ndim == 1:
            tensor.CopyFrom(numpy_helper.from_array(codes.astype(np.int8), name))
            continue
        stored = f"{name}_stored"
        tensor.CopyFrom(helper.make_tensor(stored, TensorProto.INT4, codes.shape, codes.reshape(-1)))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.INT8))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
