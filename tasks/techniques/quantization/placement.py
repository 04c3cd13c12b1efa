"""Where a network is rounded, so that onnxruntime runs it in int8.

onnxruntime fuses an operation into its int8 form only where every side of it is quantised. So the
inputs of every layer are rounded, and what leaves a convolution, behind the ReLU if there is one; from
there on additions, concatenations and poolings of rounded values are rounded too. What leaves a linear layer
stays float unless the next layer takes it: its int8 form gives floats as fast, and classifiers,
normalisations and softmax need them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from tasks.techniques.quantization.fake_quantize import ActivationQuantizer, OnGrid
from tasks.techniques.quantization.operations import Role, clipped, operands, role_of
from tasks.techniques.quantization.tracing import module_of, rank

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
LAYERS = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
"""Layers whose weights are quantised; an embedding's are looked up in int8 and become float there."""

_FOLDER = "quantizers"


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer of the simulated network that is to run in int8."""

    input_quantizer: str | None
    """Path of the `ActivationQuantizer` of its input; None for an embedding."""
    num_axes: int
    """Of its input, batch included."""


def place_quantizers(traced: fx.GraphModule, chosen: Mapping[str, nn.Module]) -> dict[str, QuantizedLayer]:
    """Insert an `ActivationQuantizer` wherever a value is to be rounded, and an `OnGrid` where it is moved.

    Args:
        traced: a traced network with its batch norms folded; changed in place.
        chosen: the layers to quantise, by path.

    Returns:
        The chosen layers that the forward pass calls as such, in its order.
    """
    placer = _Placer(traced)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and node.target in chosen:
            placer.visit_layer(node)
        else:
            placer.visit_operation(node)
    traced.graph.lint()
    traced.recompile()
    return placer.layers


@dataclass
class _Placer:
    traced: fx.GraphModule
    layers: dict[str, QuantizedLayer] = field(default_factory=dict)
    grids: dict[fx.Node, str] = field(default_factory=dict)
    """Path of the quantizer whose grid a value is on, for the values that are quantised."""
    layer_inputs: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """The rounded copies of values that others go on using in float."""

    def visit_layer(self, node: fx.Node) -> None:
        """Round what enters a layer, and what leaves it if it is a convolution."""
        path, layer = str(node.target), module_of(node)
        (source,) = node.all_input_nodes
        if isinstance(layer, nn.Embedding):
            self.layers[path] = QuantizedLayer(None, rank(source))
            return
        grid = self._round_input(node, source, everywhere=isinstance(layer, CONVOLUTIONS))
        self.layers.setdefault(path, QuantizedLayer(grid, rank(source)))
        if isinstance(layer, CONVOLUTIONS):
            self._round(clipped(node))

    def visit_operation(self, node: fx.Node) -> None:
        """Carry rounded values through an operation."""
        role, sources = role_of(node), operands(node)
        if not sources or not all(source in self.grids for source in sources):
            return
        if role is Role.VANISHING:
            self.grids[node] = self.grids[sources[0]]
        elif role is Role.MOVING:
            self._mark(node, self.grids[sources[0]])
        elif role is Role.COMBINING:
            self._round(clipped(node))
        elif role is Role.ACTIVATION and node not in self.grids:
            self._round(node)

    def _round_input(self, layer: fx.Node, source: fx.Node, *, everywhere: bool) -> str:
        """Round what enters `layer`, for all who use it or for layers only, and return its quantizer."""
        if source in self.grids:
            return self.grids[source]
        if everywhere:
            return self.grids[self._round(source)]
        if source not in self.layer_inputs:
            self.layer_inputs[source] = self._insert(source, ActivationQuantizer())
        rounded = self.layer_inputs[source]
        layer.replace_input_with(source, rounded)
        self.grids[rounded] = str(rounded.target)
        return self.grids[rounded]

    def _round(self, value: fx.Node) -> fx.Node:
        """Round `value` for all who use it."""
        rounded = self._insert(value, ActivationQuantizer())
        value.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
        self.grids[rounded] = self.grids[value] = str(rounded.target)
        return rounded

    def _mark(self, value: fx.Node, quantizer: str) -> None:
        marked = self._insert(value, OnGrid(quantizer))
        value.replace_all_uses_with(marked, delete_user_cb=lambda user: user is not marked)
        self.grids[marked] = self.grids[value] = quantizer

    def _insert(self, value: fx.Node, module: nn.Module) -> fx.Node:
        path = f"{_FOLDER}.{value.name}"
        self.traced.add_submodule(path, module)
        with self.traced.graph.inserting_after(value):
            inserted = self.traced.graph.call_module(path, (value,))
        inserted.meta["tensor_meta"] = value.meta.get("tensor_meta")
        return inserted
