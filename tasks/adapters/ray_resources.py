"""What a stage asks of a Ray cluster, whether the cluster has it, and how long a flow waits for it."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.contracts.errors import WorkerLostError
from tasks.runtime.isolation import StageCall

_NODE_ID = "ray.io/node-id"
"""A label that Ray gives each node."""
_GRACE_S = 120.0
"""What a stage may take beyond its limit until its worker's answer, or Ray's word of the worker's loss, is here."""

_logger = logging.getLogger(__name__)


def options_of(call: StageCall) -> dict[str, Any]:
    """Return the options under which Ray places a call.

    A call that measures takes one `target-<name>` and no CPU: nodes for measuring offer that and no CPUs, so that
    nothing else lands on them.
    """
    wanted = call.resources
    custom = dict(wanted.custom)
    if call.target is not None:
        custom[target_resource(call.target)] = 1.0
    return {
        "num_cpus": 0 if call.target is not None else call.num_threads,
        "num_gpus": wanted.num_gpus,
        "memory": int(wanted.memory_gib * 2**30) or None,
        "resources": custom,
        "max_retries": 0,
        "name": call.function,
    }


def target_resource(target: str) -> str:
    """Name the custom resource of the nodes that stand for a plan's target."""
    return f"target-{target}"


def crew_size(call: StageCall, cluster: dict[str, float]) -> int:
    """Return how many processes train together: all that the call asks for, or what the cluster has room for by now.

    A cluster that has room for none yet may grow, and is asked for all.
    """
    wanted = _wanted(call)
    room = min(int(cluster.get(name, 0.0) // amount) for name, amount in wanted.items())
    return min(call.resources.num_workers, room or call.resources.num_workers)


def offers(node: dict[str, float], call: StageCall) -> bool:
    """Tell whether a node that is idle has room for the call, or for one of the processes that make it together."""
    return all(node.get(name, 0.0) >= amount for name, amount in _wanted(call).items())


@contextmanager
def placed(ray: Any, call: StageCall, avoided: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
    """Give the options of every process of the call; those that train together are placed together or not at all.

    None is placed on a node whose id is in `avoided`.
    """
    selector = {_NODE_ID: f"!in({','.join(avoided)})"} if avoided else {}
    options = options_of(call)
    size = crew_size(call, _resources_without(ray, avoided))
    if size == 1:
        yield [options | ({"label_selector": selector} if selector else {})]
        return
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([_wanted(call)] * size, strategy="PACK", bundle_label_selector=[selector] * size)
    try:
        yield [
            options
            | {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)}
            for rank in range(size)
        ]
    finally:
        remove_placement_group(group)


class Patience:
    """How long a flow waits: for a worker to take the stage, and then for the stage."""

    def __init__(self, call: StageCall, placement_timeout_s: float) -> None:
        self._call = call
        self._placement_timeout_s = placement_timeout_s
        self._asked = time.monotonic()
        self._begun: float | None = None
        self._place = ""
        self.nodes: set[str] = set()
        """Ids of the nodes whose workers said that they are at work on it."""

    def note(self, note: dict[str, Any]) -> None:
        """Learn that the stage is at work, and on which node."""
        self.nodes.add(note["node"])
        if self._begun is None:
            self._begun = time.monotonic()
            self._place = note["host"]
            _logger.info("%s began on %s", self._call.function, self._place)

    def check(self, cluster: Callable[[], dict[str, float]]) -> None:
        """Give up what takes too long.

        Raises:
            WorkerLostError: it did; the message says what was waited for.
        """
        now = time.monotonic()
        limit_s = self._call.resources.timeout_s
        if self._begun is not None and now - self._begun > limit_s + _GRACE_S:
            raise WorkerLostError(
                f"{self._call.function} on {self._place} is {_GRACE_S:.0f} s over its limit of {limit_s:.0f} s, and "
                "its worker says nothing"
            )
        if self._begun is None and now - self._asked > self._placement_timeout_s:
            raise WorkerLostError(
                f"no worker took {self._call.function} within {self._placement_timeout_s:.0f} s "
                f"(STILLHOUSE_PLACEMENT_TIMEOUT_S). It asks for {_listed(_wanted(self._call))}; the cluster has "
                f"{_listed(cluster())} in all. {_remedy(self._call)}"
            )


def _resources_without(ray: Any, avoided: Collection[str]) -> dict[str, float]:
    """Return what the cluster has in all, less what the nodes `avoided` have."""
    if not avoided:
        resources: dict[str, float] = ray.cluster_resources()
        return resources
    total: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in avoided:
            total.update(node["Resources"])
    return dict(total)


def _wanted(call: StageCall) -> dict[str, float]:
    options = options_of(call)
    named = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options["memory"]}
    return {name: value for name, value in (named | options["resources"]).items() if value}


def _listed(resources: dict[str, float]) -> str:
    shown = sorted((name, value) for name, value in resources.items() if not name.startswith("node:"))
    return ", ".join(
        f"{value / 2**30:.1f} GiB of memory" if name == "memory" else f"{value:g} {name}"
        for name, value in shown
        if name != "object_store_memory"
    )


def _remedy(call: StageCall) -> str:
    if call.target is None:
        return "Add a worker that offers it, or lower what the technique's `resources` ask for."
    return (
        "Start a node for measuring, which nothing else uses: "
        f"ray start --address=... --num-cpus=0 --resources='{{\"{target_resource(call.target)}\": 1}}'"
    )
