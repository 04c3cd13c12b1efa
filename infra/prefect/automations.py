"""The automations by which a run whose worker is lost goes on elsewhere, as Prefect's API takes them.

Prefect notices by itself when a flow's process dies under a living worker. When both are lost, nobody says so: the
first automation takes the missing heartbeat for it. The second starts what crashed again; the run then finds its
finished stages in the cache. Prefect knows no limit of restarts, but events name how often the run had begun.
"""

from typing import Any

SILENCE_S = 90
"""A run that was not heard of for so long is dead; three of the heartbeats that `prefect.yaml` asks for."""
REST_S = 30
"""For so long a crashed run is left alone: a worker with a `--limit` ends with an error when it is given a run again
before it has put the first attempt away, which takes it seconds where its machine is busy."""
MAX_RESTARTS = 3
"""A run that crashes in spite of so many restarts stays crashed: its cause does not heal."""

_BEGIN = "prefect.flow-run.Running"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed"))


def automations(tag: str, max_restarts: int = MAX_RESTARTS) -> list[dict[str, Any]]:
    """Return the automations for the runs of deployments that have `tag`."""
    ours = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
    silent = {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": ours,
        "for_each": ["prefect.resource.id"],
        "after": [_BEGIN, _HEARTBEAT],  # a run may be lost before its first heartbeat
        "expect": [_HEARTBEAT, *_ENDS],
        "threshold": 1,
        "within": SILENCE_S,
    }
    crashed = {
        "type": "event",
        "posture": "Proactive",  # the one posture that can wait
        # a run that never began has the count 0: what keeps it from starting would keep it again
        "match": {
            "prefect.resource.id": "prefect.flow-run.*",
            "prefect.run-count": [str(count) for count in range(1, max_restarts + 1)],
        },
        "match_related": ours,
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.Crashed"],
        "expect": ["prefect.flow-run.Scheduled"],  # somebody was faster
        "threshold": 1,
        "within": REST_S,
    }
    return [
        {
            "name": f"{tag}: runs without a heartbeat",
            "description": f"Marks runs as crashed that were not heard of for {SILENCE_S} s.",
            "tags": [marker(tag)],
            "trigger": silent,
            "actions": [_change("CRASHED", f"No heartbeat for {SILENCE_S} s: its worker is lost.")],
        },
        {
            "name": f"{tag}: crashed runs",
            "description": f"Starts crashed runs again, at most {max_restarts} times.",
            "tags": [marker(tag)],
            "trigger": crashed,
            "actions": [_change("SCHEDULED", f"Started again after a crash; at most {max_restarts} times.")],
        },
    ]


def marker(tag: str) -> str:
    """Return the tag of the automations that are made here, as opposed to those that people make."""
    return f"{tag}-deploy"


def _change(state: str, message: str) -> dict[str, Any]:
    return {"type": "change-flow-run-state", "state": state, "message": message}
