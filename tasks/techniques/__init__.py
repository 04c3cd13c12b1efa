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
    _spec("distillation.distill_decoupled:DistillDecoupled"),
    _spec("distillation.distill_ensemble:DistillEnsemble"),
    _spec("distillation.distill_response:DistillResponse"),
    _spec("distillation.distill_attention:DistillAttention"),
    _spec("distillation.distill_data_free:DistillDataFree"),
    _spec("distillation.distill_features:DistillFeatures"),
    _spec("distillation.distill_mutual:DistillMutual"),
    _spec("distillation.distill_relations:DistillRelations"),
    _spec("distillation.distill_self:DistillSelf"),
    _spec("factorization.factorize:Factorize"),
    _spec("pruning.prune_channels:PruneChannels"),
    _spec("pruning.prune_heads:PruneHeads"),
    _spec("pruning.prune_layers:PruneLayers"),
    _spec("pruning.prune_two_four:PruneTwoFour"),
    _spec("pruning.prune_weights:PruneWeights"),
    _spec("quantization.quantize_auto:QuantizeAuto"),
    _spec("quantization.quantize_aware:QuantizeAware"),
    _spec("quantization.quantize_bfloat16:QuantizeBfloat16"),
    _spec("quantization.quantize_dynamic:QuantizeDynamic"),
    _spec("quantization.quantize_float16:QuantizeFloat16"),
    _spec("quantization.quantize_int4:QuantizeInt4"),
    _spec("quantization.quantize_mixed:QuantizeMixed"),
    _spec("quantization.quantize_static:QuantizeStatic"),
    _spec("sharing.share_weights:ShareWeights"),
    _spec("sharing.share_int8_weights:ShareInt8Weights"),
)

if TYPE_CHECKING:
    Technique = TechniqueSpec
else:
    Technique = Annotated[Union[TECHNIQUES], Field(discriminator="kind")]  # noqa: UP007 - a union of a computed tuple
