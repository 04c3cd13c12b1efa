"""Which hours of a model's traffic logs go, by age and by bytes; the rule of every place where logs lie."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.contracts.traffic_retention import HOUR_FORMAT, LOGS, Pruned

_LATE = timedelta(hours=2)
"""Rows may lie in the folder of the hour after their own, and clocks of gateways differ."""


@dataclass(frozen=True)
class LoggedHour:
    """One hour of one log."""

    name: str
    """As gateways name it; see `HOUR_FORMAT`."""
    log: str
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Limits:
    """What may stay of a model's logs."""

    keep_from: datetime | None
    """Rows from here on are kept, as far as there is room; None: age removes nothing."""
    kept_because: str
    """Why not less is kept."""
    max_bytes: int | None = None
    """How much may stay of all logs together; None: any amount."""
    needed_from: datetime | None = None
    """Rows from here on stay, however many bytes they are."""


@dataclass(frozen=True)
class Choice:
    """What goes and what stays, oldest first, and why."""

    doomed: tuple[LoggedHour, ...]
    kept: tuple[LoggedHour, ...]
    kept_from: datetime | None
    kept_because: str

    def report(self, model_name: str, *, dry_run: bool) -> Pruned:
        """Say it."""
        return Pruned(
            model_name=model_name,
            kept_from=None if self.kept_from is None else self.kept_from.isoformat(timespec="seconds"),
            kept_because=self.kept_because,
            folders=len(self.doomed),
            files=sum(hour.files for hour in self.doomed),
            size_bytes=_bytes_of(self.doomed),
            kept_bytes=_bytes_of(self.kept),
            dry_run=dry_run,
        )


def choose_hours(hours: Iterable[LoggedHour], limits: Limits) -> Choice:
    """Choose the hours that are too old, and then the oldest without which the rest is at most `max_bytes`."""
    ordered = sorted(hours, key=lambda hour: (hour.name, LOGS.index(hour.log)))
    keep_from, because = limits.keep_from, limits.kept_because
    doomed = [hour for hour in ordered if keep_from is not None and hour.name < first_hour_kept(keep_from)]
    kept = ordered[len(doomed) :]
    if limits.max_bytes is not None:
        needed = None if limits.needed_from is None else first_hour_kept(limits.needed_from)
        beyond = _beyond(kept, limits.max_bytes, needed)
        doomed, kept = doomed + beyond, kept[len(beyond) :]
        if beyond:
            keep_from, because = _hour_after(beyond[-1]), f"at most {limits.max_bytes} bytes are kept"
        if (over := _bytes_of(kept) - limits.max_bytes) > 0:
            because = f"it is still needed, although it is {over} bytes beyond the {limits.max_bytes} to be kept"
    return Choice(tuple(doomed), tuple(kept), keep_from, because)


def _beyond(hours: list[LoggedHour], max_bytes: int, needed: str | None) -> list[LoggedHour]:
    """Return the oldest hours without which the others are at most `max_bytes`; none from the hour `needed` on."""
    size, beyond = _bytes_of(hours), list[LoggedHour]()
    for name, group in itertools.groupby(hours, key=lambda hour: hour.name):
        if size <= max_bytes or (needed is not None and name >= needed):
            break
        oldest = list(group)
        beyond += oldest
        size -= _bytes_of(oldest)
    return beyond


def _bytes_of(hours: Iterable[LoggedHour]) -> int:
    return sum(hour.size_bytes for hour in hours)


def first_hour_kept(keep_from: datetime) -> str:
    """Return the name of the first hour that may hold rows from `keep_from` on."""
    return (keep_from.astimezone(UTC) - _LATE).strftime(HOUR_FORMAT)


def _hour_after(hour: LoggedHour) -> datetime:
    return datetime.strptime(hour.name, HOUR_FORMAT).replace(tzinfo=UTC) + timedelta(hours=1)
