"""Removes old hours of the logs of predictions, feedback and sampled inputs, never one that something still reads."""

import shutil
import uuid
from datetime import datetime
from pathlib import Path

from tasks.contracts.errors import InfrastructureError
from tasks.contracts.traffic_retention import LOGS, Pruned, first_hour_kept, is_hour

_DOOMED = ".removing-"


def prune_model(
    root: Path, model_name: str, keep_from: datetime, kept_because: str, *, dry_run: bool = False
) -> Pruned:
    """Remove the model's hours before `keep_from`.

    An hour is first moved out of the log as a whole, so that no reader sees half of it, and then removed; what a crash
    left moved is removed by the next call. Hours that hold a name which no gateway writes are left alone.

    Raises:
        InfrastructureError: a folder cannot be removed.
    """
    last = first_hour_kept(keep_from)
    folder = root / model_name
    if not dry_run:
        for left in folder.glob(f"{_DOOMED}*"):
            _remove(left)
    folders = files = size = 0
    for log in LOGS:
        for hour in sorted((folder / log).glob("*")):
            if not is_hour(hour.name) or hour.name >= last:
                continue
            sizes = [path.stat().st_size for path in hour.iterdir()]
            folders, files, size = folders + 1, files + len(sizes), size + sum(sizes)
            if not dry_run:
                # beside the log and not in it, where a reader could find a part of it
                doomed = folder / f"{_DOOMED}{log}-{hour.name}-{uuid.uuid4().hex[:8]}"
                hour.rename(doomed)
                _remove(doomed)
    return Pruned(
        model_name=model_name,
        kept_from=keep_from.isoformat(timespec="seconds"),
        kept_because=kept_because,
        folders=folders,
        files=files,
        size_bytes=size,
        dry_run=dry_run,
    )


def logged_models(root: Path) -> list[str]:
    """Return the models that have a log, sorted."""
    return sorted(path.name for path in root.glob("*") if (path / "predictions").is_dir())


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise InfrastructureError(
            f"cannot remove {folder}: {error.strerror or error}; check its permissions"
        ) from error
