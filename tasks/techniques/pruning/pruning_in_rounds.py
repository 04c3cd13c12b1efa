"""What all structured pruning shares: rounds of removing and training, resumed bit for bit when interrupted."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.contracts.model import EpochRecord, ModelFormat
from tasks.techniques.loss import Loss, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, Invariant, StageContext, TechniqueSpec
from tasks.techniques.training import device_for, fit

if TYPE_CHECKING:
    from tasks.models.architecture import Network
    from tasks.techniques.pruning.scoring import Scorer
    from tasks.techniques.rounds import Round

Facts = Mapping[str, float | int | str]
Remove = Callable[["Network", int], "tuple[Network, Facts]"]
"""Takes a network and the round's number (from 1), prunes it, and says what is to be known of it later."""


class PrunesInRounds(TechniqueSpec):
    """Base of techniques that remove a part of the network, train, and go on; it is no technique itself."""

    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    keeps: ClassVar[frozenset[Invariant]] = frozenset({"sparsity", "low_rank"})

    rounds: int = Field(default=3, ge=1, le=100, description="Steps on the way; 10 to 20 % a round is usual.")
    fine_tune: Schedule = Field(
        default=Schedule(epochs=10, learning_rate=1.5e-3),
        description="Training after each round; half the usual learning rate is usual.",
    )
    teacher_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the baseline's softened answers (T = 4) in the loss of the fine-tuning; the labels "
        "have the rest. 0 does not load the baseline.",
    )
    score_rows: int = Field(
        default=256,
        ge=1,
        description="Calibration rows, at most, by which criteria that look at the loss or at activations judge.",
    )

    @property
    def planned_epochs(self) -> int:
        """Epochs of all rounds."""
        return self.rounds * self.fine_tune.epochs

    def _scorer(self, criterion: str, context: StageContext) -> "Scorer":
        """Return the criterion with the rows and the loss that it may look at."""
        from tasks.techniques.pruning.scoring import Scorer

        return Scorer(
            criterion=criterion,
            rows=context.load_split("calibration"),
            loss=label_loss(context.task),
            num_rows=self.score_rows,
            seed=context.seed,
            device=device_for(self.resources.num_gpus),
        )

    def _in_rounds(
        self, network: "Network", remove: Remove, context: StageContext, interrupted: "Round | None"
    ) -> "tuple[Network, Facts]":
        """Run all rounds, or those that an interrupted stage has left.

        Args:
            network: the incoming network; it is changed.
            remove: prunes it; what it returns of facts is stored with the round and survives an interruption.
            context: the stage's.
            interrupted: the round that the stage's checkpoint is of, if there is one.

        Returns:
            The last round's network, and the facts of all rounds; of equal names the latest.
        """
        from tasks.techniques.distillation.recovery import recovery_loss
        from tasks.techniques.rounds import Round

        train, device = context.load_split("train"), device_for(self.resources.num_gpus)
        loss, taught = recovery_loss(context, self.fine_tune, train.x, self.teacher_weight, device)
        current = interrupted
        records = list(current.records) if current else []
        for record in records:
            context.report(record)
        facts = dict(current.facts) if current else {}
        for number in range(current.number if current else 1, self.rounds + 1):
            if current is None or current.number != number:
                network, found = remove(network, number)
                facts |= found
                current = Round(number, network.to_bytes(), tuple(records), dict(facts))
            network = self._trained(current, train, loss, context, records)
        return network, facts | taught

    def _trained(
        self, current: "Round", train: Arrays, loss: Loss, context: StageContext, records: list[EpochRecord]
    ) -> "Network":
        """Train the network of one round and add its epochs to `records`."""
        from tasks.models.architecture import Network
        from tasks.techniques.rounds import RoundCheckpoints

        def report(record: EpochRecord) -> None:
            records.append(record)
            context.report(record)

        network = Network.from_bytes(current.network)
        fit(
            network.module,
            train,
            loss,
            self.fine_tune,
            replace(context, checkpoints=RoundCheckpoints(context.checkpoints, current), report=report),
            first_step=1 + (current.number - 1) * self.fine_tune.epochs,
            device=device_for(self.resources.num_gpus),
        )
        return network
