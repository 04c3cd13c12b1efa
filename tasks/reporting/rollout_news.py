"""What a rollout says in Prefect's pages: every look in the log, a pause for a person as artifact and event."""

import logging

from tasks.contracts.monitoring import ROLLOUT_PAUSED
from tasks.decisions.rollout_state import RolloutState
from tasks.reporting.artifacts import escape_markdown


def tell(before: RolloutState, state: RolloutState) -> None:
    """Tell what was decided. Needs the context of a flow run.

    The artifact `rollout-<model>` and the event come once for each pause.
    """
    from prefect import get_run_logger

    if state.latest is None:
        return
    paused = state.status == "paused" and before.status != "paused"
    level = logging.WARNING if paused or state.latest.verdict == "roll_back" else logging.INFO
    get_run_logger().log(
        level, "%s at %g %%: %s", state.latest.verdict, state.latest.judged_weight, state.latest.reason
    )
    if paused:
        _ask_for_a_person(state)


def pause_markdown(state: RolloutState) -> str:
    """Return what a person has to know who finds the rollout paused, and the commands that go on from there."""
    assert state.latest is not None
    name = state.model_name
    commands = "".join(
        f"- `stillhouse rollout {command} {name}`: {meaning}\n"
        for command, meaning in (
            ("resume", "go on judging from here"),
            ("promote", "go past what this step waits for; `--full` past all that is left"),
            ("abort", "give all traffic back to the champion"),
        )
    )
    return (
        f"**The rollout of version {state.challenger.version} of {name} waits for a person** at {state.weight:g} % "
        f"since {state.latest.at}.\n\n{escape_markdown(state.latest.reason)}\n\n{commands}"
    )


def _ask_for_a_person(state: RolloutState) -> None:
    from prefect.artifacts import create_markdown_artifact
    from prefect.events import emit_event

    assert state.latest is not None
    create_markdown_artifact(pause_markdown(state), key=f"rollout-{state.model_name}", description="Rollout paused")
    emit_event(
        ROLLOUT_PAUSED,
        resource={
            "prefect.resource.id": f"stillhouse.model.{state.model_name}",
            "prefect.resource.name": state.model_name,
        },
        payload={
            "model_name": state.model_name,
            "version": state.challenger.version,
            "rollout_id": state.rollout_id,
            "weight": state.weight,
            "since": state.latest.at,
            "reason": state.latest.reason,
        },
    )
