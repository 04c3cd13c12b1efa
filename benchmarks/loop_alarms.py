"""What alarms set going on a site, and what of that is done: one retraining, whatever number of alarms."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.loop_site import Site
from tasks.contracts.monitoring import ALARM_EVENTS, Announcement
from tasks.decisions.alarms import announcement_id
from tasks.runtime.services import connect
from tasks.stages.retraining import read_record

ALARMS = (ALARM_EVENTS["drift"], ALARM_EVENTS["accuracy"])
"""The events that `prefect.yaml` answers with a retraining."""
_RETRAIN = "retrain"
_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_SOON_S, _LONG_S = 240.0, 900.0


def answered_alarm(model_name: str, site: Site) -> dict[str, Any]:
    """Wait for the retraining that an alarm started, send another alarm meanwhile, and return its run once it ended.

    Raises:
        ValueError: none started, or it failed.
    """

    def started() -> list[dict[str, Any]]:
        return [run for run in site.runs(_RETRAIN) if run["state_type"] in ("RUNNING", "COMPLETED")]

    _until(started, _SOON_S, "no alarm started a retraining")
    _send_alarm(model_name, "an alarm during the retraining")

    def ended() -> list[dict[str, Any]]:
        runs = site.runs(_RETRAIN)
        return runs if len(runs) > 1 and _all_ended(runs) else []

    runs = _until(ended, _LONG_S, "the retraining does not end")
    completed = [run for run in runs if run["state_type"] == "COMPLETED"]
    if len(completed) != 1:
        raise ValueError(f"{len(completed)} retrainings completed: {[run['state']['message'] for run in runs]}")
    return dict(completed[0])


def refused_alarms(model_name: str, site: Site) -> dict[str, int]:
    """Send one more alarm, after the retraining, and count what all of them scheduled and what became of it.

    Raises:
        ValueError: more than one retraining was done.
    """
    known = len(site.runs(_RETRAIN))
    _send_alarm(model_name, "an alarm after the retraining")

    def dealt_with() -> list[dict[str, Any]]:
        runs = site.runs(_RETRAIN)
        return runs if len(runs) > known and _all_ended(runs) else []

    runs = _until(dealt_with, _SOON_S, "an alarm scheduled nothing, or its run does not end")
    entries = read_record(connect(), model_name).entries
    refused = [run for run in runs if "cooldown_hours" in str(run["state"]["message"])]
    cancelled = [run for run in runs if run["state_type"] == "CANCELLED"]
    if len(entries) != 1 or len(refused) + len(cancelled) != len(runs) - 1:
        ends = [(run["state_type"], run["state"]["message"]) for run in runs]
        raise ValueError(f"{len(entries)} retrainings: {ends}")
    return {
        "alarms, ours included": len(site.events(*ALARMS)),
        "runs that the automation scheduled": len(runs),
        "cancelled, since one ran": len(cancelled),
        "refused, since one had just been": len(refused),
        "retrainings": len(entries),
    }


def _send_alarm(model_name: str, reason: str) -> None:
    """Send an event as monitoring does, of an episode of our own."""
    now = datetime.now(UTC).isoformat()
    alarm = Announcement(
        event_id=announcement_id(model_name, reason, now),
        event=ALARM_EVENTS["drift"],
        subject=f"model.{model_name}",
        occurred=now,
        payload={"model_name": model_name, "reason": reason},
    )
    if not connect().events.send([alarm]):
        raise ValueError("no Prefect server is addressed")


def _all_ended(runs: list[dict[str, Any]]) -> bool:
    return all(run["state_type"] in _ENDED for run in runs)


def _until(found: Callable[[], list[dict[str, Any]]], seconds: float, otherwise: str) -> list[dict[str, Any]]:
    """Ask once a second until something is found.

    Raises:
        ValueError: nothing was, in time.
    """
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise ValueError(f"{otherwise} (waited {seconds:.0f} s)")
        time.sleep(1.0)
    return answer
