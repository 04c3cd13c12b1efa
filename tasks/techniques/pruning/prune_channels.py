"""Structured pruning: whole channels go, so that the network is a smaller dense one on any runtime."""

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.techniques.pruning.goals import GOAL_FIELDS, Goal
from tasks.techniques.pruning.pruning_in_rounds import PrunesInRounds
from tasks.techniques.targeting import Targets
from tasks.techniques.technique import Applied, StageContext

if TYPE_CHECKING:
    from tasks.techniques.pruning.iterative import PruningPlan

_DEFAULT_RATIO = 0.3
_FASTEST_PACE = 0.20
"""Share of the channels that practice removes in one round at most."""


class PruneChannels(PrunesInRounds):
    """Remove the least important channels in rounds, with fine-tuning after each (Li et al. 2017, arXiv:1608.08710).

    Channels that depend on each other (over residual additions, depthwise convolutions) go together
    (Fang et al. 2023, arXiv:2301.12900).
    """

    summary: ClassVar[str] = "Remove whole channels in rounds, and fine-tune after each."

    kind: Literal["prune_channels"] = "prune_channels"
    ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the channels to remove over all rounds; 20 to 30 % is moderate. "
        f"{_DEFAULT_RATIO} if no other goal is given; give one goal at most.",
    )
    flops_reduction: float | None = Field(
        default=None, gt=0, lt=1, description="Prune as little as removes this share of the multiply-adds."
    )
    parameters_reduction: float | None = Field(
        default=None, gt=0, lt=1, description="Prune as little as removes this share of the parameters."
    )
    latency_reduction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Prune as little as removes this share of the time for one row, float32 in onnxruntime on one "
        "thread. It is measured on the machine that runs the stage, so the result depends on that machine.",
    )
    criterion: Literal["l1", "l2", "bn_scale", "taylor", "hessian", "random"] = Field(
        default="l2",
        description="What a channel is worth: mean absolute weight, root of the mean squared weight, mean absolute "
        "scale of its batch norm, squared first-order or diagonal second-order change of the loss without it "
        "(by gradients on calibration rows), or a number drawn by chance (to compare with). Where every layer has a "
        "batch norm, which makes the size of the weights arbitrary, `bn_scale` and the gradients tell more.",
    )
    scope: Literal["global", "local"] = Field(
        default="local",
        description="`local` removes the share from each layer; `global` ranks all layers' channels together.",
    )
    round_to: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Final widths are the multiple of it nearest to what the goal asks for, counted from the "
        "incoming widths. 8 suits int8, 16 suits float32 on CPUs.",
    )
    min_channels: int = Field(default=8, ge=2, description="No layer gets narrower than this, or than it was.")
    targets: Targets = ("*",)
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Globs of module paths, such as `stem.*`: matching layers keep their outputs, and other "
        "matching modules are not looked into.",
    )

    @property
    def goal(self) -> Goal:
        """What to take away, and how much of it."""
        given = self._goals()
        return given[0] if given else Goal("units", _DEFAULT_RATIO)

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if len(given := self._goals()) > 1:
            raise ValueError(
                f"{', '.join(goal.field for goal in given)} are given, but pruning can have only one "
                "goal; leave out all but one"
            )
        return self

    def _goals(self) -> list[Goal]:
        values = {measure: getattr(self, name) for measure, name in GOAL_FIELDS.items()}
        return [Goal(measure, share) for measure, share in values.items() if share is not None]

    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Prune and fine-tune; an interrupted stage goes on from its last checkpoint.

        Raises:
            TechniqueError: the network cannot be traced, nothing of it can be removed, the goal is out of reach,
                or training diverged.
        """
        import torch

        from tasks.models.architecture import Network
        from tasks.techniques.pruning.graph import channel_groups
        from tasks.techniques.pruning.masks import require_plain_or_masked
        from tasks.techniques.pruning.measures import size_facts
        from tasks.techniques.pruning.planning import WidthRules
        from tasks.techniques.pruning.unit_pruning import UnitPruning, narrow_channels
        from tasks.techniques.rounds import last_round

        incoming = Network.from_bytes(model)
        require_plain_or_masked(incoming.module)
        example = torch.from_numpy(context.load_split("calibration").x[:2])
        pruning = UnitPruning(
            find=partial(channel_groups, example=example, ignore=self.ignore, targets=self.targets),
            scorer=self._scorer(self.criterion, context),
            rules=WidthRules(scope=self.scope, round_to=self.round_to, min_channels=self.min_channels),
            narrow=narrow_channels,
            num_rounds=self.rounds,
            unit="channel",
            limits={"round_to": self.round_to, "min_channels": self.min_channels},
        )
        interrupted = last_round(context.checkpoints)
        plan, reached = pruning.planned(incoming, self.goal, example, context, interrupted)
        network, facts = self._in_rounds(
            Network.from_bytes(model), partial(pruning.round, plan, reached), context, interrupted
        )
        details = size_facts(incoming.module, network.module, example) | self._facts(plan) | dict(facts)
        return Applied(network.to_bytes(), details)

    def _facts(self, plan: "PruningPlan") -> dict[str, float | int | str]:
        facts: dict[str, float | int | str] = {
            "share_of_channels_removed": plan.share_removed,
            "channels_removed": plan.removed_text(),
            "channels_kept_whole": plan.whole_text(),
            "rounds": self.rounds,
        }
        if plan.share_removed / self.rounds > _FASTEST_PACE:
            facts["warning"] = (
                f"{plan.share_removed / self.rounds:.0%} of the channels go in each round; practice is 10 to 20 %: "
                "raise rounds"
            )
        return facts
