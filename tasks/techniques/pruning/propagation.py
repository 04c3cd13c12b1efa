"""Following channels through a traced network, from the layers that make them to those that read them.

The network runs on example rows, so that every shape is known; beside each tensor goes the array of
its channels. An operation without a rule, or used in a way that its rule does not cover, freezes the
channels that reach it: fewer channels can be pruned then, but never a wrong one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from tasks.techniques.pruning.calls import Call, CannotFollow, Followed, channels_in
from tasks.techniques.pruning.coupling import Coupling
from tasks.techniques.pruning.layers import can_shrink, follow_fixed, follow_shrinkable
from tasks.techniques.pruning.operations import RULES


class ChannelPropagation(fx.Interpreter):
    """Runs a traced network and collects in `coupling` what it does to its channels."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        coupling: Coupling,
        *,
        ignored: frozenset[str],
        whole: Mapping[str, str],
    ) -> None:
        """Prepare to follow.

        Args:
            module: the network.
            graph: its trace, in which the modules of `ignored` are single calls.
            coupling: collects what is found.
            ignored: paths of modules that are not looked into.
            whole: why the outputs of a layer must stay, by its path.
        """
        super().__init__(module, graph=graph)
        self._ignored = ignored
        self._whole = whole
        self._coupling = coupling
        self._followed: dict[fx.Node, Followed] = {}
        self._borrowed = _borrowed_layers(module, graph)

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation and follow the channels through it."""
        result = super().run_node(n)
        call = Call(n, result, self.env, self._followed, self._coupling)
        try:
            self._followed[n] = self._follow(call)
        except CannotFollow as obstacle:
            self._followed[n] = None
            self._freeze(n.all_input_nodes, f"{_name(n)} {obstacle}")
        return result

    def _follow(self, call: Call) -> Followed:
        node = call.node
        if node.op == "call_module":
            return self._follow_module(call, str(node.target))
        if all(self._followed[source] is None for source in node.all_input_nodes):
            return None
        if node.op == "output":
            raise CannotFollow("of the network")
        if node.target not in RULES:
            raise CannotFollow("has no rule")
        return RULES[node.target](call)

    def _follow_module(self, call: Call, path: str) -> Followed:
        layer = self.fetch_attr(path)
        if can_shrink(layer) and path not in self._borrowed:
            leaving = follow_shrinkable(call, layer, path)
            if reason := self._whole.get(path):
                self._coupling.freeze(leaving.channels, reason)
            return leaving
        if all(self._followed[source] is None for source in call.node.all_input_nodes):
            return None
        if path in self._ignored:
            raise CannotFollow("is ignored")
        if path in self._borrowed:
            raise CannotFollow("shares its parameters")
        return follow_fixed(call, layer)

    def _freeze(self, nodes: Iterable[fx.Node], reason: str) -> None:
        for node in nodes:
            for channels in channels_in(self._followed[node]):
                self._coupling.freeze(channels, reason)


def _name(node: fx.Node) -> str:
    """Return what people call the operation: a module's path, or a function's name."""
    return str(getattr(node.target, "__name__", node.target))


def _borrowed_layers(module: nn.Module, graph: fx.Graph) -> set[str]:
    """Return the layers whose parameters are used by others too: shared between layers, or read directly."""
    owners = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    shared = {
        path
        for path, layer in module.named_modules()
        if any(owners[id(p)] > 1 for p in layer.parameters(recurse=False))
    }
    return shared | {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
