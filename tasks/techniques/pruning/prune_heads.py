"""Structured pruning of attention: whole heads go."""

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from tasks.contracts.model import Architecture
from tasks.techniques.pruning.goals import Goal
from tasks.techniques.pruning.pruning_in_rounds import PrunesInRounds
from tasks.techniques.targeting import Targets
from tasks.techniques.technique import Applied, StageContext


class PruneHeads(PrunesInRounds):
    """Remove the least important heads in rounds, with fine-tuning after each (Michel et al. 2019, arXiv:1905.10650).

    The attentions must be `tasks.models.attention.SelfAttention`. The hidden width of the linear layers
    between attentions is channels: `prune_channels` removes those.
    """

    summary: ClassVar[str] = "Remove whole attention heads in rounds, and fine-tune after each."
    example_model: ClassVar[Architecture | None] = Architecture(
        factory="tasks.models.vit:vit", kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "depth": 2}
    )

    kind: Literal["prune_heads"] = "prune_heads"
    ratio: float = Field(default=0.25, gt=0, lt=1, description="Share of the heads to remove over all rounds.")
    criterion: Literal["l2", "taylor", "hessian", "random"] = Field(
        default="taylor",
        description="What a head is worth: root of the mean squared weight of its query, key and value, squared "
        "first-order or diagonal second-order change of the loss without it (by gradients on calibration rows), or "
        "a number drawn by chance (to compare with).",
    )
    scope: Literal["global", "local"] = Field(
        default="global",
        description="`global` ranks the heads of all attentions together; `local` removes the share from each.",
    )
    min_heads: int = Field(default=1, ge=1, description="No attention gets fewer heads than this, or than it had.")
    targets: Targets = ("*",)
    ignore: tuple[str, ...] = Field(
        default=(), description="Globs of the paths of attentions, such as 'blocks.0.*', that keep all heads."
    )

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Prune and fine-tune; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: the network has no attention or too few heads, or training diverged.
        """
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.pruning.heads import head_groups, narrow_heads
        from tasks.techniques.pruning.masks import require_plain_or_masked
        from tasks.techniques.pruning.measures import size_facts
        from tasks.techniques.pruning.planning import WidthRules
        from tasks.techniques.pruning.unit_pruning import UnitPruning
        from tasks.techniques.rounds import last_round

        incoming = Network.from_bytes(model)
        require_plain_or_masked(incoming.module)
        example = torch.from_numpy(context.load_split("calibration").x[:2])
        pruning = UnitPruning(
            find=partial(head_groups, targets=self.targets, ignore=self.ignore),
            scorer=self._scorer(self.criterion, context),
            rules=WidthRules(scope=self.scope, round_to=1, min_channels=1, min_units=self.min_heads),
            narrow=narrow_heads,
            num_rounds=self.rounds,
            unit="head",
            limits={"min_heads": self.min_heads},
        )
        interrupted = last_round(context.checkpoints)
        plan, reached = pruning.planned(incoming, Goal("units", self.ratio), example, context, interrupted)
        network, _ = self._in_rounds(
            Network.from_bytes(model), partial(pruning.round, plan, reached), context, interrupted
        )
        details = size_facts(incoming.module, network.module, example)
        kept = ", ".join(
            f"{group.producers[0].path.removesuffix('.query')} {group.num_units}->{plan.final[group.key]}"
            for group in plan.prunable
        )
        details |= {"share_of_heads_removed": plan.share_removed, "heads": kept, "rounds": self.rounds}
        return Applied(network.to_bytes(), details)
