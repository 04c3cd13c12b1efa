"""The dependency graph of a network's channels: traced by torch.fx, followed layer by layer."""

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, fx, nn

from tasks.contracts.errors import TechniqueError
from tasks.techniques.pruning.coupling import Coupling, Group
from tasks.techniques.pruning.layers import makes_channels
from tasks.techniques.pruning.propagation import ChannelPropagation


def channel_groups(
    module: nn.Module, example: Tensor, ignore: Sequence[str] = (), targets: Sequence[str] = ("*",)
) -> tuple[Group, ...]:
    """Find the groups of channels that can only be removed together.

    A convolution or linear layer that `ignore` matches, or no target does, keeps its outputs. Any other
    module that `ignore` matches is not looked into, and what enters and leaves it keeps its width. The
    same happens to everything that cannot be followed, with the reason in `Group.reason`.

    Args:
        module: the network; it is not changed.
        example: [B, *input_shape] with B >= 2, of the dtype that the network takes.
        ignore: globs of module paths, such as `stages.0.*`; a `*` also matches dots.
        targets: globs of the paths of convolutions and linear layers; the others keep their outputs.

    Returns:
        All groups, prunable or not. Together they hold each channel of each followed layer once.

    Raises:
        TechniqueError: the forward pass cannot be traced, or a glob matches no module.
    """
    ignored = _matching(module, "ignore", ignore)
    targeted = _matching(module, "targets", targets)
    whole = {path: f"{path} is ignored" for path in ignored} | {
        path: f"{path} is no target"
        for path, layer in module.named_modules()
        if makes_channels(layer) and path not in ignored | targeted
    }
    module = copy.deepcopy(module)
    coupling = Coupling()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for training in (False, True):  # drop-path and auxiliary heads take another way while training
            graph = _trace(module.train(training), ignored)
            ChannelPropagation(module.eval(), graph, coupling, ignored=ignored, whole=whole).run(example)
    return coupling.groups()


def _matching(module: nn.Module, role: str, globs: Sequence[str]) -> frozenset[str]:
    """Return the paths that any glob matches; each glob must match one."""
    paths = [path for path, _ in module.named_modules()]
    for pattern in globs:
        if not any(fnmatchcase(path, pattern) for path in paths):
            found = [path for path in paths if path]
            raise TechniqueError(f"{role}={pattern!r} matches no module of {type(module).__name__}; it has {found}")
    return frozenset(path for path in paths if any(fnmatchcase(path, pattern) for pattern in globs))


class _Tracer(fx.Tracer):
    """Traces into every module but torch's own and the ignored ones, and remembers where it is."""

    def __init__(self, ignored: frozenset[str]) -> None:
        super().__init__()
        self._ignored = ignored
        self.inside: list[str] = []
        """Paths of the modules that are being traced, outermost first; left as it was when tracing fails."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._ignored or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result


def _trace(module: nn.Module, ignored: frozenset[str]) -> fx.Graph:
    tracer = _Tracer(ignored)
    try:
        return tracer.trace(module)
    except Exception as error:
        path = tracer.inside[-1] if tracer.inside else ""
        culprit = module.get_submodule(path)
        name = f"module {path!r} ({type(culprit).__name__})" if path else type(culprit).__name__
        remedy = f", or add {path!r} to `ignore` to leave it and the channels around it as they are" if path else ""
        raise TechniqueError(
            f"the forward pass of {name} cannot be traced: {error}. Write it without control flow that depends on "
            f"the values of tensors{remedy}"
        ) from error
