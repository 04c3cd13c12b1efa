"""Which nodes of a Ray cluster a stage has failed on, so that its retries go elsewhere, where there is an elsewhere.

A node that fails at once, with a full disk say, has room at once too: without this, a retry would meet it again.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tasks.adapters.ray_resources import offers
from tasks.contracts import errors
from tasks.contracts.errors import InfrastructureError
from tasks.runtime.isolation import Message, StageCall

_logger = logging.getLogger(__name__)


class FailedNodes:
    """What this process knows of its calls; each is known by all that it says, so that a retry is the same call."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._by_call: dict[str, set[str]] = defaultdict(set)

    def add(self, call: StageCall, nodes: Iterable[str]) -> None:
        """Remember nodes on which the call failed."""
        with self._guard:
            self._by_call[call.to_json()].update(nodes)

    def forget(self, call: StageCall) -> None:
        """The call succeeded, or failed in a way that no node can help."""
        with self._guard:
            self._by_call.pop(call.to_json(), None)

    def avoided(self, call: StageCall, cluster: Callable[[], list[dict[str, Any]]]) -> Collection[str]:
        """Return the nodes that the call must not be placed on, by their ids.

        Where it failed on all that offer what it asks for, it may be placed on any again: whatever it was may have
        healed.

        Args:
            call: what is to be placed.
            cluster: gives the nodes as `ray.nodes()` does; asked only if the call has failed before.
        """
        with self._guard:
            failed = frozenset(self._by_call.get(call.to_json(), ()))
        if not failed:
            return ()
        alive = {node["NodeID"]: node for node in cluster() if node["Alive"]}
        avoided = sorted(failed & alive.keys())
        if not any(offers(node["Resources"], call) for name, node in alive.items() if name not in failed):
            self.forget(call)
            return ()
        if avoided:
            hosts = ", ".join(alive[name]["NodeManagerHostname"] for name in avoided)
            _logger.info("%s is tried elsewhere than on %s, where it failed", call.function, hosts)
        return avoided


def may_be_of_the_node(message: Message) -> bool:
    """Tell whether an answer says that something outside the stage failed, which need not fail on another node."""
    kind = getattr(errors, message["error"]["class"], None)
    return isinstance(kind, type) and issubclass(kind, InfrastructureError)
