"""What a rollout remembers between two looks: frozen values, JSON both ways.

Fields are added with a default and never removed or renamed: what a former version recorded still reads.
"""

from typing import Literal

from tasks.contracts.route import Arm
from tasks.contracts.value import Slug, Value
from tasks.contracts.verdict import Check
from tasks.decisions.rollout_policy import RolloutPolicy

RolloutVerdict = Literal["advance", "hold", "roll_back", "promote", "resume", "skip"]
RolloutStatus = Literal["running", "paused", "promoted", "rolled_back", "aborted"]
SkipScope = Literal["step", "rollout"]


class Decision(Value):
    """What one tick concluded or one person ordered, and what the route has to be from now on."""

    tick: int
    at: str
    judged_weight: float
    """Percent of requests on the challenger during the judged step; 0 is shadow."""
    verdict: RolloutVerdict
    """`resume` and `skip` are a person's; `roll_back` is too where the rollout was aborted."""
    reason: str
    actor: str | None = None
    """Who ordered it; None where the evidence decided."""
    checks: tuple[Check, ...] = ()
    """Of this look; of the last one before where a person ordered."""
    rows: dict[str, int]
    """Rows seen so far per arm, over all steps."""
    weight: float
    """Percent of requests that the challenger is to get from now on; meaningless once promoted."""
    shadow: bool
    """Whether the challenger is to answer unseen beside the champion from now on."""


class RolloutState(Value):
    """Where a rollout stands. Everything that a later tick needs."""

    rollout_id: str
    model_name: Slug
    champion: Arm
    challenger: Arm
    policy: RolloutPolicy
    """As it was when the rollout began."""
    created_at: str
    step: int = 0
    """Position in `policy.steps`."""
    tick: int = 0
    """Ticks and orders so far; 0 is the start."""
    ticks_in_step: int = 0
    """Ticks that wanted evidence at this step; those within a planned pause are not counted."""
    mismatched_ticks: int = 0
    """Consecutive ticks that found the traffic divided wrongly."""
    waits_passed: int = 0
    """How many of the step's pauses and analyses are behind."""
    pausing_since: str | None = None
    """When the planned pause began that holds now, UTC, ISO 8601; None outside of one."""
    skip: SkipScope | None = None
    """What a person ordered to go past at the next tick: the waits of this step, or all of the rollout's."""
    status: RolloutStatus = "running"
    latest: Decision | None = None
    """Of the last tick or order; None before the first."""
    history: tuple[Decision, ...] = ()
    """Decisions that changed something: steps that ended, pauses, orders, and how it all ended."""

    @property
    def finished(self) -> bool:
        """Whether the state is terminal."""
        return self.status in ("promoted", "rolled_back", "aborted")

    @property
    def weight(self) -> float:
        """Percent of requests that the challenger gets now; 0 when the rollout ended without promotion."""
        return 0.0 if self.status in ("rolled_back", "aborted") else self.policy.weights[self.step]

    @property
    def shadow(self) -> bool:
        """Whether the challenger answers unseen beside the champion now."""
        return not self.finished and self.weight == 0.0

    def followed_by(self, decision: Decision) -> "RolloutState":
        """Return this state, which `decision` led to, with the decision as its latest and in its history."""
        return self.model_copy(update={"latest": decision, "history": (*self.history, decision)})
