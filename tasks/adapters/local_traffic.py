"""The prediction log where gateways write it: a folder that this machine can read."""

from datetime import datetime
from pathlib import Path

from tasks.adapters.traffic_retention import logged_models, prune_model
from tasks.contracts.traffic_retention import Pruned
from tasks.decisions.log_retention import Limits


class LocalTraffic:
    """The log below one root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> str:
        """See `TrafficFiles.place`."""
        return str(self._root)

    def folder(self, model_name: str | None = None, since: datetime | None = None) -> Path:
        """See `TrafficFiles.folder`: it is there already."""
        return self._root

    def models(self) -> list[str]:
        """See `TrafficFiles.models`."""
        return logged_models(self._root)

    def prune(self, model_name: str, limits: Limits, *, dry_run: bool = False) -> Pruned:
        """See `TrafficFiles.prune`."""
        return prune_model(self._root, model_name, limits, dry_run=dry_run)
