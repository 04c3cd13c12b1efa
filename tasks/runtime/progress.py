"""Progress of a training stage: a Prefect progress artifact, and a listener for the command line."""

import logging
from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from tasks.contracts.model import EpochRecord

Listener = Callable[[str, EpochRecord, int], None]
"""Called with the stage's label, the epoch's record and the number of planned epochs."""

Announcement = Callable[[str], None]
"""Called with what the process is doing now."""

_logger = logging.getLogger(__name__)
_listeners: list[Listener] = []
_announcements: list[Announcement] = []


def listen(listener: Listener) -> Callable[[], None]:
    """Be told of every epoch in this process; returns the function that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def listen_to_announcements(listener: Announcement) -> Callable[[], None]:
    """Be told what this process is doing; returns the function that ends it."""
    _announcements.append(listener)
    return lambda: _announcements.remove(listener)


def announce(text: str) -> None:
    """Say what the process is doing now."""
    for listener in tuple(_announcements):
        listener(text)


class ProgressArtifact:
    """Shows how far a stage is, in Prefect's pages and to listeners."""

    def __init__(self, label: str, planned_epochs: int) -> None:
        self._label = label
        self._planned = max(planned_epochs, 1)
        self._artifact: UUID | None = None

    def show(self, record: EpochRecord) -> None:
        """Publish one epoch's record. A server that is away misses it: the epoch counts, whoever watches."""
        for listener in tuple(_listeners):
            listener(self._label, record, self._planned)
        if TaskRunContext.get() is None:
            return
        try:
            self._publish(record)
        except (httpx.HTTPError, RuntimeError) as error:  # the client tells of an API that is away by RuntimeError
            _logger.warning("epoch %d of %s is not shown in Prefect: %s", record.step, self._label, error)

    def _publish(self, record: EpochRecord) -> None:
        percent = min(100.0, 100.0 * record.step / self._planned)
        description = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
        if self._artifact is None:
            created = create_progress_artifact(progress=percent, description=f"{self._label}: {description}")
            assert isinstance(created, UUID)
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, progress=percent, description=f"{self._label}: {description}")
