"""Removes old hours of the logs of predictions, feedback and sampled inputs, never one that something still reads."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tasks.contracts.errors import InfrastructureError
from tasks.contracts.traffic_retention import LOGS, Pruned, is_hour
from tasks.decisions.log_retention import Limits, LoggedHour, choose_hours

_DOOMED = ".removing-"


def prune_model(root: Path, model_name: str, limits: Limits, *, dry_run: bool = False) -> Pruned:
    """Remove the model's hours beyond `limits`.

    An hour is first moved out of the log as a whole, so that no reader sees half of it, and then removed; what a crash
    left moved is removed by the next call. Hours that hold a name which no gateway writes are left alone.

    Raises:
        InfrastructureError: a folder cannot be removed.
    """
    folder = root / model_name
    if not dry_run:
        for left in folder.glob(f"{_DOOMED}*"):
            _remove(left)
    choice = choose_hours(_hours(folder), limits)
    if not dry_run:
        for hour in choice.doomed:
            # beside the log and not in it, where a reader could find a part of it
            doomed = folder / f"{_DOOMED}{hour.log}-{hour.name}-{uuid.uuid4().hex[:8]}"
            (folder / hour.log / hour.name).rename(doomed)
            _remove(doomed)
    return choice.report(model_name, dry_run=dry_run)


def logged_models(root: Path) -> list[str]:
    """Return the models that have a log, sorted."""
    return sorted(path.name for path in root.glob("*") if (path / "predictions").is_dir())


def _hours(folder: Path) -> Iterator[LoggedHour]:
    """Give the hours of all logs of one model."""
    for log in LOGS:
        for hour in (folder / log).glob("*"):
            if is_hour(hour.name):
                sizes = [size for path in hour.iterdir() if (size := _size(path)) is not None]
                yield LoggedHour(hour.name, log, len(sizes), sum(sizes))


def _size(path: Path) -> int | None:
    """Return the size of a file, or None if it is gone: a gateway was about to finish writing it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise InfrastructureError(
            f"cannot remove {folder}: {error.strerror or error}; check its permissions"
        ) from error
