"""The one list of techniques, and the union that is made of it.

To add a technique, write its module in this package (or in a family's folder) and add one line to `TECHNIQUES`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from tasks.techniques.technique import TechniqueSpec


def _spec(path: str) -> type[TechniqueSpec]:
    """Import a spec from `module:Class`, relative to this package. Such a module is light: it imports no torch."""
    module, _, name = path.partition(":")
    spec: type[TechniqueSpec] = getattr(import_module(f"{__name__}.{module}"), name)
    return spec


TECHNIQUES: tuple[type[TechniqueSpec], ...] = (
    _spec("distillation.distill_response:DistillResponse"),
    _spec("pruning.prune_channels:PruneChannels"),
    _spec("quantization.quantize_static:QuantizeStatic"),
)

if TYPE_CHECKING:
    Technique = TechniqueSpec
else:
    Technique = Annotated[Union[TECHNIQUES], Field(discriminator="kind")]  # noqa: UP007 - a union of a computed tuple
