"""What a step of a rollout still waits for: its planned pauses and analyses, and the evidence of every step."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.experiment import Observation, champion_reference
from tasks.decisions.rollout_policy import RolloutPolicy
from tasks.decisions.rollout_state import RolloutState
from tasks.decisions.rollout_steps import Analysis, Pause, named, shown_duration


@dataclass(frozen=True)
class Wait:
    """Where a step is among its pauses and analyses."""

    passed: int
    """How many of them are behind."""
    reason: str = ""
    """What the next one still wants; empty when none is left."""
    pausing_since: str | None = None
    """When the pause began that holds; None where nothing or an analysis does."""
    for_a_person: bool = False


def pending_wait(
    state: RolloutState, observation: Observation, checks: tuple[Check, ...], policy: RolloutPolicy, now: str
) -> Wait:
    """Go through the step's waits from where it was, past all that are over."""
    step, since = policy.steps[state.step], state.pausing_since
    for position in range(state.waits_passed, len(step.waits)):
        wait = step.waits[position]
        if isinstance(wait, Analysis):
            if reason := _unproven(wait, step.weight, observation, checks, policy):
                return Wait(position, reason)
        else:
            since = since or now
            if reason := _unfinished(wait, since, state.model_name, step.weight, now):
                return Wait(position, reason, since, for_a_person=wait.duration_s is None)
            since = None
    return Wait(len(step.waits))


def missing_evidence(step: int, observation: Observation, checks: tuple[Check, ...], policy: RolloutPolicy) -> str:
    """Say what every step must bring and this one has not yet; empty when it may end.

    Before the champion would lose all traffic, and at the last step, accuracy within the margin has to be proven.
    """
    weight, found = policy.weights[step], {check.name: check for check in checks}
    if missing := _missing_rows(observation, weight, policy.min_rows_per_arm):
        return missing
    if found["feedback"].verdict is not Verdict.PASS:
        return f"accuracy cannot be judged: {found['feedback'].detail}"
    final = step == len(policy.steps) - 1 or policy.weights[step + 1] == 100.0
    if final and found["accuracy"].verdict is not Verdict.PASS:
        return f"accuracy within the margin is not proven yet: {found['accuracy'].detail}"
    return ""


def _unfinished(pause: Pause, since: str, model_name: str, weight: float, now: str) -> str:
    if pause.duration_s is None:
        return f"pauses at {named(weight)} for a person since {since}; `stillhouse rollout resume {model_name}` goes on"
    until = datetime.fromisoformat(since) + timedelta(seconds=pause.duration_s)
    if datetime.fromisoformat(now) >= until:
        return ""
    return f"pauses at {named(weight)} for {shown_duration(pause.duration_s)}, until {until.isoformat()}"


def _unproven(
    analysis: Analysis, weight: float, observation: Observation, checks: tuple[Check, ...], policy: RolloutPolicy
) -> str:
    min_rows = analysis.min_rows_per_arm or policy.min_rows_per_arm
    if missing := _missing_rows(observation, weight, min_rows):
        return f"analysis: {missing}"
    open_checks = [
        f"{check.name} ({check.detail})"
        for check in checks
        if check.name.startswith(analysis.proven) and check.verdict is not Verdict.PASS
    ]
    return (
        f"analysis at {named(weight)} wants proof that there is no harm by {', '.join(open_checks)}"
        if open_checks
        else ""
    )


def _missing_rows(observation: Observation, weight: float, min_rows: int) -> str:
    rows = {
        "champion": champion_reference(observation, weight).rows,
        "challenger": observation.at(weight).challenger.rows,
    }
    missing = [f"{num} of the {arm}" for arm, num in rows.items() if num < min_rows]
    if not missing:
        return ""
    return f"too few rows at {named(weight)}: {' and '.join(missing)}; wanted {min_rows} of each"
