"""Weight sharing: the weights of a layer take few values, which go on learning."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.distillation.recovery import recovery_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.sharing.clustering import Initialisation
from tasks.techniques.targeting import Ignore, Targets, select_layers
from tasks.techniques.technique import ALL_INVARIANTS, Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import nn

    from tasks.techniques.sharing.layer_codebooks import LayerSharing


class ShareWeights(TechniqueSpec):
    """K-means codebooks with trained centroids (Han et al. 2016, Deep Compression, arXiv:1510.00149, section 3).

    The ONNX file stores a codebook and 4-bit indices (8-bit above 16 centroids) for each layer and
    decodes them when it is loaded, so that the model is small on disk and runs as the dense one does.
    """

    summary: ClassVar[str] = "Let the weights of a layer share few values, train these, and store 4-bit indices."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    establishes: ClassVar[frozenset[Invariant]] = frozenset({"shared_weights"})
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS

    kind: Literal["share_weights"] = "share_weights"
    num_centroids: int = Field(
        default=16, ge=2, le=256, description="Values that a layer's weights may take; up to 16 are stored in 4 bits."
    )
    groups: int = Field(
        default=1, ge=1, le=4096, description="Codebooks of a layer, each for an equal run of its output channels."
    )
    per_channel_scale: bool = Field(
        default=True,
        description="Give every output channel a trained scale on top of the shared values, which then lie on "
        "multiples of 1/127: int8 quantisation after it changes no weight and keeps one codebook for each layer.",
    )
    initialisation: Initialisation = Field(
        default="linear",
        description="Where k-means begins: `linear` spaces the centroids evenly and keeps rare large weights, "
        "`kmeans++` draws them far from each other.",
    )
    targets: Targets = ("*",)
    ignore: Ignore = ()
    min_weights: int = Field(default=256, ge=2, description="Layers with fewer weights stay as they are.")
    teacher_weight: float = Field(
        default=0.0, ge=0, le=1, description="While fine-tuning: weight of the baseline's answers beside the labels."
    )
    fine_tune: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=1e-3),
        description="Training of the centroids, scales, biases and norms.",
    )

    @model_validator(mode="after")
    def _room_for_pinned(self) -> "ShareWeights":
        if self.per_channel_scale and self.num_centroids < 3:
            raise ValueError(
                f"num_centroids={self.num_centroids} leaves no room beside the -1 and 1 that per_channel_scale holds; "
                "give at least 3, or set per_channel_scale to false"
            )
        return self

    @property
    def planned_epochs(self) -> int:
        """Epochs of the fine-tuning."""
        return self.fine_tune.epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Cluster and fine-tune; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: no layer of enough weights matches, two layers hold the same weight, or training diverged.
        """
        from tasks.models.architecture import Network
        from tasks.models.sharing import with_codebooks
        from tasks.techniques.sharing.layer_codebooks import share_layer

        network = Network.from_bytes(model)
        shared: dict[str, LayerSharing] = {
            path: share_layer(
                layer,
                num_centroids=self.num_centroids,
                num_groups=self.groups,
                per_channel_scale=self.per_channel_scale,
                initialisation=self.initialisation,
                seed=context.seed,
            )
            for path, layer in self._layers(network.module).items()
        }
        network = with_codebooks(network, {path: layer.codebook for path, layer in shared.items()})
        train, device = context.load_split("train"), device_for(self.resources.num_gpus)
        loss, taught = recovery_loss(context, self.fine_tune, train.x, self.teacher_weight, device)
        fit(network.module, train, loss, self.fine_tune, context, device=device)
        return Applied(network.to_bytes(), _facts(shared) | taught)

    def _layers(self, module: "nn.Module") -> "dict[str, nn.Module]":
        """Return the layers to share; those with too few weights are left out."""
        from torch import nn

        from tasks.techniques.sharing.layer_codebooks import weight_of

        types = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding)
        layers = select_layers(module, types, self.targets, self.ignore)
        large = {path: layer for path, layer in layers.items() if weight_of(layer).numel() >= self.min_weights}
        if not large:
            sizes = ", ".join(f"{path} {weight_of(layer).numel()}" for path, layer in layers.items())
            raise TechniqueError(f"min_weights={self.min_weights} leaves no layer to share among {sizes}; lower it")
        _require_untied(module, large)
        return large


def _require_untied(module: "nn.Module", layers: "dict[str, nn.Module]") -> None:
    """Stop before one tensor that serves two layers gets a codebook in one of them."""
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for path in layers:
        for names in owners.values():
            if f"{path}.weight" in names and len(names) > 1:
                raise TechniqueError(
                    f"{' and '.join(names)} are one tensor, which cannot have a codebook in one place only; "
                    "name their layers in ignore"
                )


def _facts(shared: "dict[str, LayerSharing]") -> dict[str, float | int | str]:
    signal = sum(layer.energy for layer in shared.values())
    error = sum(layer.squared_error for layer in shared.values())
    return {
        "layers_shared": len(shared),
        "weights_shared": sum(layer.codebook.indices.size for layer in shared.values()),
        "codebook_values": sum(layer.codebook.values_GK.size for layer in shared.values()),
        "relative_error_of_clustering": (error / signal) ** 0.5 if signal else 0.0,
    }
