"""Which hours of the traffic logs are kept, and what is said of those that were removed."""

from datetime import datetime

from tasks.contracts.value import Value

LOGS = ("predictions", "feedback", "inputs")
"""Folders of a model's log; the last is there only where a gateway samples raw inputs."""
HOUR_FORMAT = "%Y-%m-%d-%H"
"""Of the folder in which a segment lies: the UTC hour in which it was written."""


class Pruned(Value):
    """What was removed, or would be."""

    model_name: str
    kept_from: str | None
    """UTC, ISO 8601: rows from here on are kept; None if nothing was asked to go."""
    kept_because: str
    """Why not less is kept."""
    folders: int
    """Hours, each of one log."""
    files: int
    size_bytes: int
    kept_bytes: int
    """What stays of the model's logs."""
    dry_run: bool


def is_hour(name: str) -> bool:
    """Tell whether a folder is named as gateways name an hour."""
    try:
        datetime.strptime(name, HOUR_FORMAT)
    except ValueError:
        return False
    return True
