"""What a person may order of a rollout: abort, resume, skip. Pure, and the same order twice counts once.

An order never proves anything: a rollout that is resumed or told to skip its waits is still held by traffic that
is divided wrongly and rolled back by harm.
"""

from typing import Any

from tasks.decisions.rollout_state import Decision, RolloutState, RolloutVerdict, SkipScope
from tasks.decisions.rollout_steps import named


def abort(state: RolloutState, reason: str, now: str, actor: str | None = None) -> RolloutState:
    """End the rollout: the challenger gets no more traffic.

    A decision to promote is taken back; the caller answers for its not having had its effect yet.
    """
    if state.status in ("rolled_back", "aborted"):
        return state
    return _ordered(state, "roll_back", f"aborted: {reason}", now, actor, status="aborted", skip=None)


def resume(state: RolloutState, reason: str, now: str, actor: str) -> RolloutState:
    """Leave the planned pause that holds, or give a step that was not settled in time its ticks anew.

    A rollout that is not paused stays as it is.
    """
    if state.finished or (state.pausing_since is None and state.status != "paused"):
        return state
    passed = state.waits_passed + (state.pausing_since is not None)
    changes = {"status": "running", "ticks_in_step": 0, "waits_passed": passed, "pausing_since": None}
    return _ordered(state, "resume", f"resumed by {actor}: {reason}", now, actor, **changes)


def skip(state: RolloutState, scope: SkipScope, reason: str, now: str, actor: str) -> RolloutState:
    """Have the next tick go past the waits of this step, or past all that are left and promote.

    A finished rollout, and one that was told so already, stays as it is.
    """
    if state.finished or state.skip in (scope, "rollout"):
        return state
    weight = state.policy.weights[state.step]
    what = f"what {named(weight)} waits for" if scope == "step" else "all that is left before promotion"
    return _ordered(state, "skip", f"{actor} skips {what}: {reason}", now, actor, skip=scope)


def _ordered(
    state: RolloutState, verdict: RolloutVerdict, reason: str, now: str, actor: str | None, **changes: Any
) -> RolloutState:
    moved = state.model_copy(update={"tick": state.tick + 1, **changes})
    decision = Decision(
        tick=moved.tick,
        at=now,
        judged_weight=state.policy.weights[state.step],
        verdict=verdict,
        reason=reason,
        actor=actor,
        checks=state.latest.checks if state.latest else (),
        rows=state.latest.rows if state.latest else {"champion": 0, "challenger": 0},
        weight=moved.weight,
        shadow=moved.shadow,
    )
    return moved.followed_by(decision)
