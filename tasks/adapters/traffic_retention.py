"""Removes old hours of the logs of predictions, feedback and sampled inputs, never one that something still reads."""

import itertools
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.contracts.errors import InfrastructureError
from tasks.contracts.value import Value

LOGS = ("predictions", "feedback", "inputs")
"""Folders of a model's log; the last is there only where a gateway samples raw inputs."""
_HOUR_FORMAT = "%Y-%m-%d-%H"
_LATE = timedelta(hours=2)
"""Rows may lie in the folder of the hour after their own, and clocks of gateways differ."""
_DOOMED = ".removing-"


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


@dataclass(frozen=True)
class _Hour:
    """One hour of one log."""

    name: str
    log: str
    folder: Path
    files: int
    size_bytes: int


def prune_model(
    root: Path,
    model_name: str,
    keep_from: datetime | None,
    kept_because: str,
    *,
    max_bytes: int | None = None,
    needed_from: datetime | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove the model's hours before `keep_from`, and then its oldest until what stays is at most `max_bytes`.

    An hour is first moved out of the log as a whole, so that no reader sees half of it, and then removed; what a crash
    left moved is removed by the next call. Hours that hold a name which no gateway writes are left alone.

    Args:
        root: Root of the traffic logs.
        model_name: Whose logs.
        keep_from: Rows from here on are kept, as far as there is room; None: age removes nothing.
        kept_because: Why not less is kept.
        max_bytes: How much may stay of the three logs together; None: any amount.
        needed_from: Rows from here on stay, however many bytes they are.
        dry_run: Remove nothing.

    Raises:
        InfrastructureError: a folder cannot be removed.
    """
    folder = root / model_name
    if not dry_run:
        for left in folder.glob(f"{_DOOMED}*"):
            _remove(left)
    hours = _hours(folder)
    doomed = [hour for hour in hours if keep_from is not None and hour.name < _first_needed(keep_from)]
    kept = hours[len(doomed) :]
    if max_bytes is not None:
        beyond = _beyond(kept, max_bytes, None if needed_from is None else _first_needed(needed_from))
        doomed, kept = doomed + beyond, kept[len(beyond) :]
        if beyond:
            keep_from, kept_because = _hour_after(beyond[-1]), f"at most {max_bytes} bytes are kept"
        if (over := _bytes_of(kept) - max_bytes) > 0:
            kept_because = f"it is still needed, although it is {over} bytes beyond the {max_bytes} to be kept"
    if not dry_run:
        for hour in doomed:
            _move_out_and_remove(folder, hour)
    return Pruned(
        model_name=model_name,
        kept_from=None if keep_from is None else keep_from.isoformat(timespec="seconds"),
        kept_because=kept_because,
        folders=len(doomed),
        files=sum(hour.files for hour in doomed),
        size_bytes=_bytes_of(doomed),
        kept_bytes=_bytes_of(kept),
        dry_run=dry_run,
    )


def _hours(folder: Path) -> list[_Hour]:
    """Return the hours of all logs of one model, oldest first."""
    found = []
    for log in LOGS:
        for hour in (folder / log).glob("*"):
            if _is_hour(hour.name):
                sizes = [size for path in hour.iterdir() if (size := _size(path)) is not None]
                found.append(_Hour(hour.name, log, hour, len(sizes), sum(sizes)))
    return sorted(found, key=lambda hour: (hour.name, LOGS.index(hour.log)))


def _size(path: Path) -> int | None:
    """Return the size of a file, or None if it is gone: a gateway was about to finish writing it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _beyond(hours: list[_Hour], max_bytes: int, needed: str | None) -> list[_Hour]:
    """Return the oldest hours without which the others are at most `max_bytes`; none from the hour `needed` on."""
    size, beyond = _bytes_of(hours), list[_Hour]()
    for name, group in itertools.groupby(hours, key=lambda hour: hour.name):
        if size <= max_bytes or (needed is not None and name >= needed):
            break
        oldest = list(group)
        beyond += oldest
        size -= _bytes_of(oldest)
    return beyond


def _bytes_of(hours: list[_Hour]) -> int:
    return sum(hour.size_bytes for hour in hours)


def _first_needed(keep_from: datetime) -> str:
    """Return the name of the first hour that may hold rows from `keep_from` on."""
    return (keep_from.astimezone(UTC) - _LATE).strftime(_HOUR_FORMAT)


def _hour_after(hour: _Hour) -> datetime:
    return datetime.strptime(hour.name, _HOUR_FORMAT).replace(tzinfo=UTC) + timedelta(hours=1)


def _move_out_and_remove(folder: Path, hour: _Hour) -> None:
    # beside the log and not in it, where a reader could find a part of it
    doomed = folder / f"{_DOOMED}{hour.log}-{hour.name}-{uuid.uuid4().hex[:8]}"
    hour.folder.rename(doomed)
    _remove(doomed)


def logged_models(root: Path) -> list[str]:
    """Return the models that have a log, sorted."""
    return sorted(path.name for path in root.glob("*") if (path / "predictions").is_dir())


def _is_hour(name: str) -> bool:
    try:
        datetime.strptime(name, _HOUR_FORMAT)
    except ValueError:
        return False
    return True


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise InfrastructureError(
            f"cannot remove {folder}: {error.strerror or error}; check its permissions"
        ) from error
