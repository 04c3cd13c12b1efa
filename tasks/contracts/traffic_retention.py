"""Which hours of the traffic logs are kept, and what is said of those that were removed."""

from datetime import UTC, datetime, timedelta

from tasks.contracts.value import Value

LOGS = ("predictions", "feedback", "inputs")
"""Folders of a model's log; the last is there only where a gateway samples raw inputs."""
HOUR_FORMAT = "%Y-%m-%d-%H"
"""Of the folder in which a segment lies: the UTC hour in which it was written."""
_LATE = timedelta(hours=2)
"""Rows may lie in the folder of the hour after their own, and clocks of gateways differ."""


class Pruned(Value):
    """What was removed, or would be."""

    model_name: str
    kept_from: str
    """UTC, ISO 8601: rows from here on are kept."""
    kept_because: str
    """Why not less is kept."""
    folders: int
    """Hours, each of one log."""
    files: int
    size_bytes: int
    dry_run: bool


def first_hour_kept(keep_from: datetime) -> str:
    """Return the name of the first hour that may hold rows from `keep_from` on."""
    return (keep_from.astimezone(UTC) - _LATE).strftime(HOUR_FORMAT)


def is_hour(name: str) -> bool:
    """Tell whether a folder is named as gateways name an hour."""
    try:
        datetime.strptime(name, HOUR_FORMAT)
    except ValueError:
        return False
    return True
