"""From a module to the graph of its operations, with the shape of every value."""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional

from tasks.contracts.errors import TechniqueError


def trace(module: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a copy of `module` in evaluation mode, torch's own layers being single operations.

    Layers keep their paths. What the forward pass decides by `self.training` is decided for evaluation;
    dropout layers still drop while training.

    Args:
        module: a network without parametrizations; it is not changed.
        example: [B, *input_shape], B >= 2.

    Raises:
        TechniqueError: the forward pass depends on the values of tensors, or does not run on the example.
    """
    original = copy.deepcopy(module).eval()
    try:
        traced = fx.GraphModule(original, fx.Tracer().trace(original))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            ShapeProp(traced.eval()).propagate(example)
            if _write_means_as_poolings(traced):
                ShapeProp(traced).propagate(example)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TechniqueError(
            f"the forward pass of {type(module).__name__} cannot be traced, so that quantize_aware does not know where "
            f"to round: {type(error).__name__}: {reason}. Write forward() with torch's layers and functions and "
            "without control flow that depends on the values of tensors, or use quantize_static"
        ) from error
    return traced


def _write_means_as_poolings(traced: fx.GraphModule) -> bool:
    """Write means over height and width as a pooling and a flattening, both of which have an int8 form."""
    found = [node for node in traced.graph.nodes if node.target in (torch.mean, "mean") and _is_over_image(node)]
    for node in found:
        with traced.graph.inserting_before(node):
            pooled = traced.graph.call_function(functional.adaptive_avg_pool2d, (node.args[0], 1))
            if rank(node) == 2:
                pooled = traced.graph.call_function(torch.flatten, (pooled, 1))
        node.replace_all_uses_with(pooled)
        traced.graph.erase_node(node)
    traced.recompile()
    return bool(found)


def _is_over_image(node: fx.Node) -> bool:
    """Tell whether a mean is over axes 2 and 3 of 4."""
    source = node.args[0] if node.args else None
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(source, fx.Node) or rank(source) != 4 or not isinstance(axes, list | tuple):
        return False
    return {int(axis) % 4 for axis in axes if isinstance(axis, int)} == {2, 3}


def module_of(node: fx.Node) -> nn.Module | None:
    """Return the layer that `node` calls; None for functions, methods and attributes."""
    if node.op != "call_module":
        return None
    owner = node.graph.owning_module
    assert owner is not None
    return owner.get_submodule(str(node.target))


def rank(node: fx.Node) -> int:
    """Return the number of axes of the node's value, batch included; 0 if it is no tensor."""
    meta = node.meta.get("tensor_meta")
    return len(meta.shape) if isinstance(meta, TensorMetadata) else 0


def num_calls(traced: fx.GraphModule) -> Counter[str]:
    """Count how often each layer is called."""
    return Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
