"""Weight sharing over an int8 model: 4-bit storage, int8 execution, no training."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.targeting import Ignore, Targets
from tasks.techniques.technique import ALL_INVARIANTS, Applied, IncomingWeights, Invariant, StageContext, TechniqueSpec

if TYPE_CHECKING:
    from tasks.techniques.sharing.int8_weights import Int8Weight


class ShareInt8Weights(TechniqueSpec):
    """Cluster the int8 weights of each layer to at most 16 integers, the best there are; see `best_integers`.

    The file stores the integers and 4-bit indices. onnxruntime decodes them when it loads the model,
    before it fuses the int8 operators, so that coverage and speed stay what they were.
    """

    summary: ClassVar[str] = "Store the weights of an int8 model in 4 bits; it still runs in int8 at the same speed."
    takes: ClassVar[ModelFormat] = "onnx"
    gives: ClassVar[ModelFormat] = "onnx"
    takes_weights: ClassVar[IncomingWeights] = "int8"
    gives_int8: ClassVar[bool] = True
    establishes: ClassVar[frozenset[Invariant]] = frozenset({"shared_weights"})
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS
    example_before: ClassVar[tuple[dict[str, Any], ...]] = ({"kind": "quantize_static", "allow_slower": True},)

    kind: Literal["share_int8_weights"] = "share_int8_weights"
    num_centroids: int = Field(default=16, ge=2, le=16, description="Values that a layer's weights may take.")
    targets: Targets = ("*",)
    ignore: Ignore = ()
    min_weights: int = Field(default=256, ge=2, description="Layers with fewer weights stay as they are.")

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Cluster and pack; see `TechniqueSpec.apply`.

        Raises:
            TechniqueError: the model has no int8 weights, no layer of enough weights matches, 4-bit storage
                makes no weight smaller, or fewer layers than before would run in int8.
        """
        from onnx import numpy_helper

        from tasks.evaluation.onnx_graph import load_graph, measure_int8_coverage
        from tasks.models.onnx_codebook import pack_codebooks, packed_weights, unpack_codebooks
        from tasks.models.onnx_compact import compact
        from tasks.techniques.sharing.int8_weights import clustered, int8_weights

        plain = unpack_codebooks(load_graph(model))
        chosen = self._chosen(int8_weights(plain))
        initializers = {tensor.name: tensor for tensor in plain.graph.initializer}
        signal = error = 0.0
        for weight in chosen:
            shared = clustered(weight, self.num_centroids)
            signal += weight.energy_of(weight.values)
            error += weight.energy_of(shared.astype(int) - weight.values)
            initializers[weight.name].CopyFrom(numpy_helper.from_array(shared, weight.name))
        packed = compact(pack_codebooks(plain))
        if not packed_weights(packed):
            raise TechniqueError(
                "no weight becomes smaller as 4-bit indices: the layers are too small, or the model is of an opset "
                "before 21; leave share_int8_weights out, or export the model anew"
            )
        result = packed.SerializeToString(deterministic=True)
        before, after = measure_int8_coverage(model), measure_int8_coverage(result)
        if after.num_int8 < before.num_int8:
            raise TechniqueError(
                f"with shared weights onnxruntime runs {after.num_int8} layers in int8 instead of {before.num_int8}; "
                f"in float: {', '.join(after.float_nodes)}; name them in ignore"
            )
        return Applied(
            result,
            {
                "layers_shared": len(chosen),
                "weights_shared": sum(weight.values.size for weight in chosen),
                "relative_error_of_clustering": (error / signal) ** 0.5 if signal else 0.0,
                "int8_coverage": after.share,
                "size_bytes_before": len(model),
                "size_bytes": len(result),
            },
        )

    def _chosen(self, weights: "list[Int8Weight]") -> "list[Int8Weight]":
        """Return the weights of the layers that match and are large enough."""
        if not weights:
            raise TechniqueError("share_int8_weights needs a model with int8 weights; put quantize_static before it")
        layers = [weight.layer for weight in weights]
        for role, globs in (("targets", self.targets), ("ignore", self.ignore)):
            for glob in globs:
                if not any(fnmatchcase(layer, glob) for layer in layers):
                    raise TechniqueError(
                        f"{role}: the glob {glob!r} matches no int8 layer; the layers are {', '.join(layers)}"
                    )
        chosen = [
            weight
            for weight in weights
            if weight.values.size >= self.min_weights
            and any(fnmatchcase(weight.layer, glob) for glob in self.targets)
            and not any(fnmatchcase(weight.layer, glob) for glob in self.ignore)
        ]
        if not chosen:
            sizes = ", ".join(f"{weight.layer} {weight.values.size}" for weight in weights)
            raise TechniqueError(
                f"targets, ignore and min_weights={self.min_weights} leave no layer to share among {sizes}; "
                "lower min_weights or widen targets"
            )
        return chosen
