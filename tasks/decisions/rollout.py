"""The rollout as a pure state machine: a state and what was seen in, the next state and a decision out.

It starts at the first step of the policy. Every tick answers all checks and then decides, the first that applies:

1. traffic divided wrongly: hold, and roll back when it stays so;
2. harm proven (errors, latency, accuracy): roll back, however few rows it took;
3. too little traffic or feedback: hold;
4. last step, or the next would leave the champion without traffic: go on only if accuracy within the margin is proven;
5. otherwise advance; after the last step, promote.

Missing feedback never hides harm: it makes accuracy unknowable, but a failing or slow challenger is out anyway.
A step that is not settled in time pauses the rollout for a person and at last rolls back: no evidence is no pass.
"""

from typing import Literal

from tasks.contracts.route import Arm
from tasks.contracts.value import Slug, Value
from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.experiment import Observation, champion_reference
from tasks.decisions.rollout_checks import rollout_checks
from tasks.decisions.rollout_policy import RolloutPolicy

__all__ = ["Decision", "RolloutPolicy", "RolloutState", "abort", "start", "tick"]

RolloutVerdict = Literal["advance", "hold", "roll_back", "promote"]
RolloutStatus = Literal["running", "paused", "promoted", "rolled_back", "aborted"]

_HARM = ("errors", "latency", "accuracy")


class Decision(Value):
    """What one tick concluded, and what the route has to be from now on."""

    tick: int
    at: str
    judged_weight: float
    """Percent of requests on the challenger during the judged step; 0 is shadow."""
    verdict: RolloutVerdict
    reason: str
    checks: tuple[Check, ...] = ()
    rows: dict[str, int]
    """Rows seen so far per arm, over all steps."""
    weight: float
    """Percent of requests that the challenger is to get from now on; meaningless once promoted."""
    shadow: bool
    """Whether the challenger is to answer unseen beside the champion from now on."""


class RolloutState(Value):
    """Where a rollout stands. Everything that a later tick needs, and JSON both ways."""

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
    """Ticks so far; 0 is the start."""
    ticks_in_step: int = 0
    mismatched_ticks: int = 0
    """Consecutive ticks that found the traffic divided wrongly."""
    status: RolloutStatus = "running"
    latest: Decision | None = None
    """Of the last tick; None before the first."""
    history: tuple[Decision, ...] = ()
    """Decisions that changed something: steps that ended, pauses, and how it all ended."""

    @property
    def finished(self) -> bool:
        """Whether the state is terminal."""
        return self.status in ("promoted", "rolled_back", "aborted")

    @property
    def weight(self) -> float:
        """Percent of requests that the challenger gets now; 0 when the rollout ended without promotion."""
        return 0.0 if self.status in ("rolled_back", "aborted") else self.policy.steps[self.step]

    @property
    def shadow(self) -> bool:
        """Whether the challenger answers unseen beside the champion now."""
        return not self.finished and self.weight == 0.0


def start(
    rollout_id: str, model_name: Slug, champion: Arm, challenger: Arm, policy: RolloutPolicy, now: str
) -> RolloutState:
    """Return the state before the first tick: the challenger at the policy's first step.

    Raises:
        ValueError: both arms serve the same model.
    """
    if champion.digest == challenger.digest:
        raise ValueError(f"challenger {challenger.digest[:12]} already is the champion of {model_name!r}")
    fields = {name: getattr(policy, name) for name in RolloutPolicy.model_fields}  # a plan's policy has more fields
    return RolloutState(
        rollout_id=rollout_id,
        model_name=model_name,
        champion=champion,
        challenger=challenger,
        policy=RolloutPolicy(**fields),
        created_at=now,
    )


def tick(
    state: RolloutState, observation: Observation, policy: RolloutPolicy, now: str
) -> tuple[RolloutState, Decision]:
    """Judge what was seen and take at most one step.

    A finished rollout stays as it is and repeats its last decision.

    Args:
        state: what the last tick returned.
        observation: everything seen since the rollout began.
        policy: usually `state.policy`.
        now: UTC, ISO 8601.
    """
    if state.finished:
        assert state.latest is not None
        return state, state.latest
    weight = policy.steps[state.step]
    checks = rollout_checks(observation, weight, policy)
    mismatched = state.mismatched_ticks + 1 if _verdicts(checks)["sample_ratio"] is Verdict.FAIL else 0
    waited = state.ticks_in_step + 1
    verdict, reason = _judge(state.step, observation, checks, mismatched, policy)
    status = _STATUS[verdict]
    if verdict == "hold" and waited >= policy.max_ticks_per_step:
        verdict, status, reason = _overdue(waited, reason, policy)
    step = state.step + 1 if verdict == "advance" else state.step
    moved = state.model_copy(
        update={
            "step": step,
            "tick": state.tick + 1,
            "ticks_in_step": 0 if verdict == "advance" else waited,
            "mismatched_ticks": mismatched,
            "status": status,
        }
    )
    decision = Decision(
        tick=moved.tick,
        at=now,
        judged_weight=weight,
        verdict=verdict,
        reason=reason,
        checks=checks,
        rows=_rows(observation),
        weight=moved.weight,
        shadow=moved.shadow,
    )
    return _recorded(state, moved, decision), decision


def abort(state: RolloutState, reason: str, now: str) -> RolloutState:
    """End the rollout on a person's word: the challenger gets no more traffic. A finished one stays as it is."""
    if state.finished:
        return state
    ended = state.model_copy(update={"tick": state.tick + 1, "status": "aborted"})
    decision = Decision(
        tick=ended.tick,
        at=now,
        judged_weight=state.policy.steps[state.step],
        verdict="roll_back",
        reason=f"aborted: {reason}",
        rows=state.latest.rows if state.latest else {"champion": 0, "challenger": 0},
        weight=0.0,
        shadow=False,
    )
    return _recorded(state, ended, decision)


_STATUS: dict[RolloutVerdict, RolloutStatus] = {
    "advance": "running",
    "hold": "running",
    "roll_back": "rolled_back",
    "promote": "promoted",
}


def _judge(
    step: int, observation: Observation, checks: tuple[Check, ...], mismatched: int, policy: RolloutPolicy
) -> tuple[RolloutVerdict, str]:
    weight = policy.steps[step]
    details = {check.name: check.detail for check in checks}
    verdicts = _verdicts(checks)
    if mismatched:
        patient = mismatched < policy.sample_ratio_patience
        return "hold" if patient else "roll_back", f"traffic is divided wrongly: {details['sample_ratio']}"
    for check in checks:
        if check.name.startswith(_HARM) and check.verdict is Verdict.FAIL:
            return "roll_back", f"harm proven by {check.name}: {check.detail}"
    if missing := _missing_traffic(observation, weight, policy.min_rows_per_arm):
        return "hold", missing
    if verdicts["feedback"] is not Verdict.PASS:
        return "hold", f"accuracy cannot be judged: {details['feedback']}"
    last = step == len(policy.steps) - 1
    if (last or policy.steps[step + 1] == 100.0) and verdicts["accuracy"] is not Verdict.PASS:
        return "hold", f"accuracy within the margin is not proven yet: {details['accuracy']}"
    if last:
        return "promote", f"as good as the champion: {details['accuracy']}"
    return "advance", f"no harm at {_name(weight)}; going to {_name(policy.steps[step + 1])}"


def _missing_traffic(observation: Observation, weight: float, min_rows: int) -> str | None:
    rows = {
        "champion": champion_reference(observation, weight).rows,
        "challenger": observation.at(weight).challenger.rows,
    }
    missing = [f"{num} of the {arm}" for arm, num in rows.items() if num < min_rows]
    if not missing:
        return None
    return f"too few rows at {_name(weight)}: {' and '.join(missing)}; wanted {min_rows} of each"


def _overdue(waited: int, reason: str, policy: RolloutPolicy) -> tuple[RolloutVerdict, RolloutStatus, str]:
    """Say what becomes of a step that is still not settled after `waited` ticks."""
    if waited >= policy.max_ticks_per_step + policy.max_paused_ticks:
        return "roll_back", "rolled_back", f"not settled after {waited} ticks: {reason}"
    return "hold", "paused", f"not settled after {waited} ticks, a person should look: {reason}"


def _recorded(before: RolloutState, after: RolloutState, decision: Decision) -> RolloutState:
    """Return `after` with the decision as its latest, and in its history if it changed something."""
    changed = after.status != before.status or after.step != before.step
    history = (*before.history, decision) if changed else before.history
    return after.model_copy(update={"latest": decision, "history": history})


def _verdicts(checks: tuple[Check, ...]) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in checks}


def _rows(observation: Observation) -> dict[str, int]:
    return {
        "champion": sum(step.champion.rows for step in observation.steps),
        "challenger": sum(step.challenger.rows for step in observation.steps),
    }


def _name(weight: float) -> str:
    return "shadow" if weight == 0.0 else f"{weight:g} %"
