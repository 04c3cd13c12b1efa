"""What a Ray cluster offers."""

from dataclasses import dataclass
from typing import Any

from tasks.contracts.errors import ServiceUnavailableError
from tasks.runtime.settings import Settings


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster that answers."""

    address: str
    num_nodes: int
    """That are alive."""
    resources: dict[str, float]
    """In all: `CPU`, `GPU`, `memory` in bytes, `target-...`, and what nodes name themselves."""


def probe_cluster(settings: Settings) -> ClusterFacts:
    """Connect, and ask for nodes and resources.

    Raises:
        ServiceUnavailableError: no cluster answers, or Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ServiceUnavailableError(f"Ray is not installed ({error}); pip install 'stillhouse[ray]'") from error
    address = settings.ray_address
    try:
        ray.init(address, namespace="stillhouse", log_to_driver=False, ignore_reinit_error=True)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ServiceUnavailableError(
            f"no Ray cluster answers at {address} (STILLHOUSE_RAY_ADDRESS): {error}"
        ) from error
    own = {name: amount for name, amount in resources.items() if not name.startswith(("node:", "object_store"))}
    return ClusterFacts(address, sum(bool(node["Alive"]) for node in nodes), own)
