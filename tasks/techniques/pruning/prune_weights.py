"""Unstructured pruning: single weights become zero while the network is fine-tuned."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import ModelFormat
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.sparsity_schedule import CubicSchedule
from tasks.techniques.schedule import Schedule
from tasks.techniques.targeting import Ignore, Targets, select_layers
from tasks.techniques.technique import Applied, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from torch import nn

    from tasks.techniques.pruning.weight_scores import Evidence

_USUAL_SPARSITY = 0.9
"""Share of zeros up to which practice reports small losses of accuracy."""


class PruneWeights(TechniqueSpec):
    """Set the least important weights to zero step by step, and fine-tune meanwhile (Zhu & Gupta 2017, 1710.01878).

    A weight that is hidden once never comes back. After `end` the masks stay as they are. Global ranking
    keeps more accuracy than a fixed share for each layer (Blalock et al. 2020, arXiv:2003.03033).
    """

    summary: ClassVar[str] = "Set single weights to zero on a cubic schedule while fine-tuning."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    establishes: ClassVar[frozenset[Invariant]] = frozenset({"sparsity"})
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"sparsity", "low_rank"})

    kind: Literal["prune_weights"] = "prune_weights"
    sparsity: float = Field(
        default=0.8, gt=0, lt=1, description="Final share of zeros in the targeted layers; 0.7 to 0.9 is usual."
    )
    criterion: Literal["magnitude", "gradient", "taylor", "hessian", "random"] = Field(
        default="magnitude",
        description="What a weight w with gradient g is worth: |w|, |g|, |w g|, half its squared size times the "
        "empirical Fisher diagonal, or a random number (the baseline for comparisons).",
    )
    scope: Literal["global", "layer"] = Field(
        default="global", description="Rank the weights of all layers together, or take the same share of each layer."
    )
    initial_sparsity: float = Field(default=0.0, ge=0, lt=1, description="Share of zeros at the first update.")
    begin: float = Field(default=0.0, ge=0, le=1, description="Share of the training before the first update.")
    end: float = Field(
        default=0.75, ge=0, le=1, description="Share of the training before the last update; then masks are fixed."
    )
    update_every: int = Field(default=50, ge=1, description="Optimizer steps between two updates of the masks.")
    score_rows: int = Field(
        default=256, ge=1, description="Rows of the train split behind each update of gradient criteria."
    )
    targets: Targets = ("*",)
    ignore: Ignore = ()
    teacher_weight: float = Field(
        default=0.0, ge=0, le=1, description="Weight of the baseline's softened outputs in the fine-tuning loss."
    )
    fine_tune: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=3e-3),
        description="The training during which weights go. Many zeros need the full learning rate to recover from.",
    )

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`."""
        return self.fine_tune.epochs

    @property
    def schedule(self) -> CubicSchedule:
        """The share of zeros over the steps."""
        return CubicSchedule(self.initial_sparsity, self.sparsity, self.begin, self.end, self.update_every)

    @model_validator(mode="after")
    def _schedule_rises(self) -> "PruneWeights":
        if self.begin > self.end or self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"begin={self.begin:g} must not exceed end={self.end:g}, nor initial_sparsity="
                f"{self.initial_sparsity:g} sparsity={self.sparsity:g}"
            )
        return self

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Mask and fine-tune; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: a glob matches nothing, the network is as sparse already, a layer would lose all its
                weights, or training diverged.
        """
        from tasks.models.architecture import Network
        from tasks.models.masking import clear_hidden_weights, with_masks
        from tasks.techniques.distillation.recovery import recovery_loss
        from tasks.techniques.pruning.sparsity_facts import MASKABLE, sparsity_facts
        from tasks.techniques.pruning.weight_scores import Evidence

        incoming = Network.from_bytes(model)
        paths = list(select_layers(incoming.module, MASKABLE, self.targets, self.ignore))
        network = with_masks(incoming, paths)
        self._require_work(network.module, paths)
        train, device = context.load_split("train"), device_for(self.resources.num_gpus)
        evidence = Evidence(
            train, label_loss(context.task), self.score_rows, context.seed, device, context.micro_batch_limit
        )
        loss, taught = recovery_loss(context, self.fine_tune, train.x, self.teacher_weight, device)
        fit(
            network.module,
            train,
            loss,
            self.fine_tune,
            context,
            device=device,
            before_step=self._mask_updates(network.module, paths, evidence),
        )
        clear_hidden_weights(network.module)
        details = sparsity_facts(network.module, paths) | taught
        if self.sparsity > _USUAL_SPARSITY:
            details["warning"] = f"{self.sparsity:.0%} zeros; above 90 % accuracy often suffers, of some classes first"
        return Applied(network.to_bytes(), details)

    def _require_work(self, module: "nn.Module", paths: list[str]) -> None:
        from tasks.techniques.pruning.sparsity_facts import sparsity_of

        present = sparsity_of(module, paths)
        if present >= self.sparsity:
            raise TechniqueError(
                f"prune_weights: {present:.1%} of the weights are zero already, sparsity={self.sparsity:g} asks for no "
                "more; raise sparsity or leave the stage out"
            )

    def _mask_updates(self, module: "nn.Module", paths: list[str], evidence: "Evidence") -> Callable[[int, int], None]:
        """Return the hook that makes the masks sparser; it depends on the module's state and the step alone."""
        from tasks.models.masking import masks_of, set_masks
        from tasks.techniques.pruning.weight_masks import sparser_masks
        from tasks.techniques.pruning.weight_scores import weight_scores

        schedule = self.schedule

        def update(step: int, num_steps: int) -> None:
            if not schedule.is_update(step, num_steps):
                return
            sparsity = schedule.sparsity_at(step, num_steps)
            scores = weight_scores(module, paths, self.criterion, evidence)
            masks = sparser_masks(scores, masks_of(module), sparsity, self.scope)
            if empty := [path for path, mask in masks.items() if not mask.any()]:
                raise TechniqueError(
                    f"prune_weights: at a sparsity of {sparsity:.1%} {empty[0]!r} loses all its "
                    f"{masks[empty[0]].numel()} weights, and nothing passes it; lower sparsity, add the layer to "
                    "ignore, or change scope"
                )
            set_masks(module, masks)

        return update
