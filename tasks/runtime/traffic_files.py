"""What is asked of the gateways' side of a store: their word on a route, and the log of predictions."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tasks.contracts.traffic_retention import Pruned
from tasks.decisions.log_retention import Limits


class Acknowledgements(Protocol):
    """The last word of every gateway on the route of a model."""

    def read(self, model_name: str) -> Mapping[str, bytes]:
        """Return what each gateway wrote, by the place where it lies."""
        ...


class TrafficFiles(Protocol):
    """The prediction log: where its segments can be read, and how old hours of it are removed."""

    @property
    def place(self) -> str:
        """Where the log lies, for messages."""
        ...

    def folder(self, model_name: str | None = None, since: datetime | None = None) -> Path:
        """Return a local folder that holds the log as it is now, in the layout in which gateways write it.

        Args:
            model_name: Whose log is wanted; that of all models if None.
            since: First moment that is wanted (UTC); hours before it may be missing.

        Raises:
            InfrastructureError: the log cannot be read.
        """
        ...

    def models(self) -> list[str]:
        """Return the models that have a log, sorted."""
        ...

    def prune(self, model_name: str, limits: Limits, *, dry_run: bool = False) -> Pruned:
        """Remove the model's hours beyond `limits`, whole ones only.

        Raises:
            InfrastructureError: an hour cannot be removed.
        """
        ...
