"""Semi-structured pruning: at most 2 of each 4 neighbouring weights stay, which sparse tensor cores run faster."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.targeting import Ignore, Targets, select_layers
from tasks.techniques.technique import Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import nn

    from tasks.models.architecture import Network


class PruneTwoFour(TechniqueSpec):
    """Keep the n best of each m consecutive inputs of a layer, then fine-tune with fixed masks (Mishra et al. 2021).

    Groups run along the input channels at one position of the kernel (arXiv:2104.08378, as TensorRT and
    cuSPARSELt want them). Layers whose inputs are no multiple of m stay dense: depthwise
    convolutions, and usually the first layer.
    """

    summary: ClassVar[str] = "Keep 2 of each 4 neighbouring weights, the pattern that GPUs' sparse kernels run."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    establishes: ClassVar[frozenset[Invariant]] = frozenset({"sparsity"})
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"sparsity", "low_rank"})

    kind: Literal["prune_two_four"] = "prune_two_four"
    n: int = Field(default=2, ge=1, le=64, description="Weights that stay of each group.")
    m: int = Field(default=4, ge=2, le=64, description="Neighbouring weights in a group. GPUs run 2 of 4 only.")
    criterion: Literal["magnitude", "gradient", "taylor", "hessian", "random"] = Field(
        default="magnitude", description="Which weights of a group stay; see prune_weights."
    )
    score_rows: int = Field(default=256, ge=1, description="Rows of the train split behind gradient criteria.")
    targets: Targets = ("*",)
    ignore: Ignore = ()
    teacher_weight: float = Field(
        default=0.0, ge=0, le=1, description="Weight of the baseline's softened outputs in the fine-tuning loss."
    )
    fine_tune: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=1.5e-3), description="The training after the masks are set."
    )

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`."""
        return self.fine_tune.epochs

    @model_validator(mode="after")
    def _some_weights_go(self) -> "PruneTwoFour":
        if self.n >= self.m:
            raise ValueError(f"n={self.n} must be below m={self.m}, or no weight goes")
        return self

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Mask once and fine-tune; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: no targeted layer has inputs in groups of m, nothing is left to remove, or training
                diverged.
        """
        from tasks.models.architecture import Network
        from tasks.models.masking import clear_hidden_weights
        from tasks.techniques.distillation.recovery import recovery_loss
        from tasks.techniques.pruning.sparsity_facts import sparsity_facts

        incoming = Network.from_bytes(model)
        paths, dense = self._layers(incoming.module)
        network = self._masked(incoming, paths, context)
        train, device = context.load_split("train"), device_for(self.resources.num_gpus)
        loss, taught = recovery_loss(context, self.fine_tune, train.x, self.teacher_weight, device)
        fit(network.module, train, loss, self.fine_tune, context, device=device)
        clear_hidden_weights(network.module)
        details = sparsity_facts(network.module, paths) | taught
        details["pattern"] = f"{self.n} of {self.m} along the input channels"
        details["layers_left_dense"] = ", ".join(dense) or "none"
        return Applied(network.to_bytes(), details)

    def _layers(self, module: "nn.Module") -> tuple[list[str], list[str]]:
        """Return the paths of the layers whose inputs fall into groups of m, and of those that stay dense."""
        from tasks.techniques.pruning.sparsity_facts import MASKABLE

        chosen = select_layers(module, MASKABLE, self.targets, self.ignore)
        num_inputs = {path: layer.weight.shape[1] for path, layer in chosen.items()}  # type: ignore[index]
        fitting = [path for path, count in num_inputs.items() if count % self.m == 0]
        if not fitting:
            found = ", ".join(f"{path} {count}" for path, count in num_inputs.items())
            raise TechniqueError(
                f"prune_two_four: no targeted layer has a multiple of m={self.m} inputs for each output ({found}); "
                "target other layers, or give the network widths that are"
            )
        return fitting, [path for path in num_inputs if path not in fitting]

    def _masked(self, incoming: "Network", paths: list[str], context: StageContext) -> "Network":
        """Return the network with its final masks; they are set before training, so a resumed stage sets the same."""
        from tasks.models.masking import masks_of, set_masks, with_masks
        from tasks.techniques.pruning.sparsity_facts import sparsity_of
        from tasks.techniques.pruning.weight_masks import n_of_m_mask
        from tasks.techniques.pruning.weight_scores import Evidence, weight_scores

        network = with_masks(incoming, paths)
        before = sparsity_of(network.module, paths)
        split, loss = context.load_split("train"), label_loss(context.task)
        evidence = Evidence(
            split, loss, self.score_rows, context.seed, device_for(self.resources.num_gpus), context.micro_batch_limit
        )
        scores = weight_scores(network.module, paths, self.criterion, evidence)
        present = masks_of(network.module)
        masks = {path: n_of_m_mask(scores[path], present[path], self.n, self.m) for path in paths}
        set_masks(network.module, masks)
        if sparsity_of(network.module, paths) == before:
            raise TechniqueError(
                f"prune_two_four: at most {self.n} of each {self.m} weights are left already; leave the stage out"
            )
        return network
