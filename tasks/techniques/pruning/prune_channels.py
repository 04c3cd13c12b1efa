"""Structured pruning: whole channels go, so that the network is a smaller dense one on any runtime."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.contracts.model import EpochRecord, ModelFormat
from tasks.techniques.technique import Applied, Arrays, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import Schedule, device_for, fit, label_loss

if TYPE_CHECKING:
    from tasks.models.architecture import Network
    from tasks.techniques.pruning.iterative import PruningPlan
    from tasks.techniques.pruning.rounds import Round

_FASTEST_PACE = 0.20
"""Share of the channels that practice removes in one round at most."""


class PruneChannels(TechniqueSpec):
    """Remove the least important channels in rounds, with fine-tuning after each (Li et al. 2017, arXiv:1608.08710).

    Channels that depend on each other (over residual additions, depthwise convolutions) go together
    (Fang et al. 2023, arXiv:2301.12900).
    """

    summary: ClassVar[str] = "Remove whole channels in rounds, and fine-tune after each."
    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"low_rank"})

    kind: Literal["prune_channels"] = "prune_channels"
    ratio: float = Field(
        default=0.3, gt=0, lt=1, description="Share of the channels to remove over all rounds; 20 to 30 % is moderate."
    )
    rounds: int = Field(default=3, ge=1, le=100, description="Steps on the way; 10 to 20 % a round is usual.")
    criterion: Literal["l1", "l2", "bn_scale"] = Field(
        default="l2",
        description="What a channel is worth: mean absolute weight, root of the mean squared weight, "
        "or mean absolute scale of its batch norm. Where every layer has a batch norm, which makes the size of "
        "the weights arbitrary, `bn_scale` tells more.",
    )
    scope: Literal["global", "local"] = Field(
        default="local",
        description="`local` removes the share from each layer; `global` ranks all layers' channels together.",
    )
    round_to: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Final widths are the multiple of it nearest to what `ratio` asks for, counted from the "
        "incoming widths. 8 suits int8, 16 suits float32 on CPUs.",
    )
    min_channels: int = Field(default=8, ge=2, description="No layer gets narrower than this, or than it was.")
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Globs of module paths, such as `stem.*`: matching layers keep their outputs, and other "
        "matching modules are not looked into.",
    )
    fine_tune: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=1.5e-3),
        description="Training after each round; half the usual learning rate is usual.",
    )

    @property
    def planned_epochs(self) -> int:
        """Epochs of all rounds."""
        return self.rounds * self.fine_tune.epochs

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Prune and fine-tune; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: the network cannot be traced, nothing of it can be removed, or training diverged.
        """
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.pruning.iterative import multiply_adds, num_parameters, plan_pruning

        train = context.load_split("train")
        example = torch.from_numpy(train.x[:2])
        incoming = Network.from_bytes(model).module
        plan = plan_pruning(
            incoming,
            example,
            criterion=self.criterion,
            ratio=self.ratio,
            scope=self.scope,
            round_to=self.round_to,
            min_channels=self.min_channels,
            ignore=self.ignore,
        )
        network = self._pruned_in_rounds(Network.from_bytes(model), plan, train, context)
        details: dict[str, float | int | str] = {
            "parameters_before": num_parameters(incoming),
            "parameters_after": num_parameters(network.module),
            "multiply_adds_before": multiply_adds(incoming, example),
            "multiply_adds_after": multiply_adds(network.module, example),
            "share_of_channels_removed": plan.share_removed,
            "channels_removed": plan.removed_text(),
            "channels_kept_whole": plan.whole_text(),
            "rounds": self.rounds,
        }
        if plan.share_removed / self.rounds > _FASTEST_PACE:
            details["warning"] = (
                f"{plan.share_removed / self.rounds:.0%} of the channels go in each round; practice is 10 to 20 %: "
                "raise rounds"
            )
        return Applied(network.to_bytes(), details)

    def _pruned_in_rounds(
        self, network: "Network", plan: "PruningPlan", train: Arrays, context: StageContext
    ) -> "Network":
        """Run all rounds, or those that an interrupted stage has left."""
        import torch

        from tasks.techniques.pruning.iterative import prune_round
        from tasks.techniques.pruning.rounds import Round, last_round

        example = torch.from_numpy(train.x[:2])
        current = last_round(context.checkpoints)
        records = list(current.records) if current else []
        for record in records:
            context.report(record)
        for number in range(current.number if current else 1, self.rounds + 1):
            if current is None or current.number != number:
                pruned = prune_round(
                    network, example, plan, number, self.rounds, criterion=self.criterion, ignore=self.ignore
                )
                current = Round(number, pruned.to_bytes(), tuple(records))
            network = self._fine_tuned(current, train, context, records)
        return network

    def _fine_tuned(
        self, current: "Round", train: Arrays, context: StageContext, records: list[EpochRecord]
    ) -> "Network":
        """Train the network of one round and add its epochs to `records`."""
        from tasks.models.architecture import Network
        from tasks.techniques.pruning.rounds import RoundCheckpoints

        def report(record: EpochRecord) -> None:
            records.append(record)
            context.report(record)

        network = Network.from_bytes(current.network)
        fit(
            network.module,
            train,
            label_loss(context.task, self.fine_tune.label_smoothing),
            self.fine_tune,
            replace(context, checkpoints=RoundCheckpoints(context.checkpoints, current), report=report),
            first_step=1 + (current.number - 1) * self.fine_tune.epochs,
            device=device_for(self.resources.num_gpus),
        )
        return network
