"""Training by kernels that are compiled for the network, its shapes and its device."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts.errors import TechniqueError

if TYPE_CHECKING:
    from torch import Tensor, nn

_SETTINGS = {
    "force_disable_caches": True,
    "cpp_cache_precompile_headers": False,  # they would lie in the usual folder all the same
    "compile_threads": 1,
}
Forward = Callable[["Tensor"], "Tensor"]
"""From the inputs of a batch to a network's outputs."""


def survives_compiling(module: "nn.Module") -> bool:
    """Tell whether a network may be compiled: nobody listens to its layers, whose calls a compiled network fuses."""
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@contextmanager
def compiled(module: "nn.Module") -> Iterator[Forward]:
    """Give what calls `module` by kernels that `torch.compile` makes at the first call with each shape.

    Nothing is kept: the compiler's usual folder has a name that every user of the host can guess, and its caches are
    pickles. It writes to a folder of its own, which goes with the block, and compiles in this process.

    Raises:
        TechniqueError: there is no compiler here, or it cannot compile this network; from the block, whose calls
            compile.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(_own_folder())
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InvalidCxxCompiler

        stack.enter_context(torch._inductor.config.patch(_SETTINGS))
        stack.callback(torch._dynamo.reset)
        try:
            # the last batch of an epoch has another shape: kernels for two fixed shapes beat those for any
            yield torch.compile(module, dynamic=False)
        except (TorchDynamoException, InvalidCxxCompiler) as error:
            raise TechniqueError(
                f"{type(module).__name__} cannot be compiled here: {_first_lines(error)}; set schedule.compile to "
                "false, or install a C++ compiler on the worker if that is what is missing"
            ) from error


@contextmanager
def _own_folder() -> Iterator[None]:
    """Let the compilers of PyTorch and Triton write to a new folder, which goes with the block."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ[name] for name in names if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="stillhouse-kernels-") as folder:
        os.environ |= {name: str(Path(folder) / name.partition("_")[0].lower()) for name in names}
        # PyTorch makes its folder when the compiler is imported, so not before
        from torch._inductor.utils import clear_caches

        clear_caches()  # they name files of an earlier folder
        try:
            yield
        finally:
            clear_caches()
            for name in names:
                del os.environ[name]
            os.environ |= before


def _first_lines(error: Exception) -> str:
    """Return what failed and why; the lines after that are advice on PyTorch's own settings."""
    return " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2]) or type(error).__name__
