"""The rollout as a pure state machine: a state and what was seen in, the next state and a decision out.

It starts at the first step of the policy. Every tick answers all checks and then decides, the first that applies:

1. traffic divided wrongly: hold, and roll back when it stays so;
2. harm proven (errors, latency, accuracy): roll back, however few rows it took;
3. a gateway does not serve the step's route yet: hold;
4. a person ordered to go on: advance, or promote;
5. a planned pause or analysis of the step is not over: hold;
6. too little traffic or feedback: hold;
7. last step, or the next would leave the champion without traffic: go on only if accuracy within the margin is proven;
8. otherwise advance; after the last step, promote.

Missing feedback never hides harm: it makes accuracy unknowable, but a failing or slow challenger is out anyway.
A step that is not settled in time pauses the rollout for a person and at last rolls back: no evidence is no pass.
A planned pause has no such end: it was asked for.
"""

from dataclasses import dataclass

from tasks.contracts.route import Arm
from tasks.contracts.value import Slug
from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.experiment import Observation
from tasks.decisions.rollout_checks import rollout_checks
from tasks.decisions.rollout_evidence import missing_evidence, pending_wait
from tasks.decisions.rollout_orders import abort, resume, skip
from tasks.decisions.rollout_policy import RolloutPolicy
from tasks.decisions.rollout_state import Decision, RolloutState, RolloutStatus, RolloutVerdict
from tasks.decisions.rollout_steps import named

__all__ = ["Decision", "RolloutPolicy", "RolloutState", "abort", "resume", "skip", "start", "tick"]

_HARM = ("errors", "latency", "accuracy")


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
    weight = policy.weights[state.step]
    checks = rollout_checks(observation, weight, policy)
    mismatched = state.mismatched_ticks + 1 if _verdicts(checks)["sample_ratio"] is Verdict.FAIL else 0
    found = _judge(state, observation, checks, mismatched, policy, now)
    moved = _moved(state, found, mismatched)
    decision = Decision(
        tick=moved.tick,
        at=now,
        judged_weight=weight,
        verdict=found.verdict,
        reason=found.reason,
        actor=_actor(state) if found.ordered else None,
        checks=checks,
        rows=_rows(observation),
        weight=moved.weight,
        shadow=moved.shadow,
    )
    changed = moved.status != state.status or moved.step != state.step
    return moved.followed_by(decision) if changed else moved.model_copy(update={"latest": decision}), decision


@dataclass(frozen=True)
class _Judgement:
    """What a tick found, before it is written into the state."""

    verdict: RolloutVerdict
    reason: str
    status: RolloutStatus
    waits_passed: int
    pausing_since: str | None = None
    ticks_in_step: int = 0
    ordered: bool = False
    """Whether a person's order was carried out by it."""


def _judge(
    state: RolloutState,
    observation: Observation,
    checks: tuple[Check, ...],
    mismatched: int,
    policy: RolloutPolicy,
    now: str,
) -> _Judgement:
    last = state.step == len(policy.steps) - 1
    if ended := _harm(checks, mismatched, policy):
        return _Judgement("roll_back", ended, "rolled_back", state.waits_passed)
    if interrupted := _wrong_division(checks) if mismatched else observation.unserved:
        return _interrupted(state, interrupted, policy)
    if state.skip:
        return _as_ordered(state, policy, last)
    wait = pending_wait(state, observation, checks, policy, now)
    if wait.pausing_since is not None:
        status: RolloutStatus = "paused" if wait.for_a_person else "running"
        return _Judgement("hold", wait.reason, status, wait.passed, wait.pausing_since, state.ticks_in_step)
    missing = wait.reason or missing_evidence(state.step, observation, checks, policy)
    if missing:
        return _unsettled(state, missing, policy, wait.passed)
    weight = policy.weights[state.step]
    if last:
        proof = f"as good as the champion: {_detail(checks, 'accuracy')}"
        return _Judgement("promote", proof, "promoted", wait.passed)
    going = f"no harm at {named(weight)}; going to {named(policy.weights[state.step + 1])}"
    return _Judgement("advance", going, "running", 0)


def _harm(checks: tuple[Check, ...], mismatched: int, policy: RolloutPolicy) -> str:
    """Say why the rollout has to end at once, or nothing. Wrongly divided traffic proves nothing else."""
    if mismatched:
        return _wrong_division(checks) if mismatched >= policy.sample_ratio_patience else ""
    for check in checks:
        if check.name.startswith(_HARM) and check.verdict is Verdict.FAIL:
            return f"harm proven by {check.name}: {check.detail}"
    return ""


def _as_ordered(state: RolloutState, policy: RolloutPolicy, last: bool) -> _Judgement:
    reason = next(decision.reason for decision in reversed(state.history) if decision.verdict == "skip")
    if last or state.skip == "rollout":
        return _Judgement("promote", f"no harm proven, and {reason}", "promoted", state.waits_passed, ordered=True)
    going = f"no harm proven, and {reason}; going to {named(policy.weights[state.step + 1])}"
    return _Judgement("advance", going, "running", 0, ordered=True)


def _interrupted(state: RolloutState, reason: str, policy: RolloutPolicy) -> _Judgement:
    """Hold for what has to be mended outside; a planned pause stays the pause that it is."""
    if state.pausing_since is None:
        return _unsettled(state, reason, policy, state.waits_passed)
    return _Judgement("hold", reason, state.status, state.waits_passed, state.pausing_since, state.ticks_in_step)


def _unsettled(state: RolloutState, reason: str, policy: RolloutPolicy, passed: int) -> _Judgement:
    """Hold for want of evidence; say what becomes of a step that wants it for too long."""
    waited = state.ticks_in_step + 1
    if waited < policy.max_ticks_per_step:
        return _Judgement("hold", reason, "running", passed, None, waited)
    late = f"not settled after {waited} ticks"
    if waited >= policy.max_ticks_per_step + policy.max_paused_ticks:
        return _Judgement("roll_back", f"{late}: {reason}", "rolled_back", passed, None, waited)
    return _Judgement("hold", f"{late}, a person should look: {reason}", "paused", passed, None, waited)


def _moved(state: RolloutState, found: _Judgement, mismatched: int) -> RolloutState:
    return state.model_copy(
        update={
            "step": state.step + 1 if found.verdict == "advance" else state.step,
            "tick": state.tick + 1,
            "ticks_in_step": found.ticks_in_step,
            "mismatched_ticks": mismatched,
            "waits_passed": found.waits_passed,
            "pausing_since": found.pausing_since,
            "skip": None if found.ordered and state.skip == "step" else state.skip,
            "status": found.status,
        }
    )


def _actor(state: RolloutState) -> str | None:
    return next((decision.actor for decision in reversed(state.history) if decision.verdict == "skip"), None)


def _wrong_division(checks: tuple[Check, ...]) -> str:
    return f"traffic is divided wrongly: {_detail(checks, 'sample_ratio')}"


def _detail(checks: tuple[Check, ...], name: str) -> str:
    return next(check.detail for check in checks if check.name == name)


def _verdicts(checks: tuple[Check, ...]) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in checks}


def _rows(observation: Observation) -> dict[str, int]:
    return {
        "champion": sum(step.champion.rows for step in observation.steps),
        "challenger": sum(step.challenger.rows for step in observation.steps),
    }
