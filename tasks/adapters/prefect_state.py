"""What a Prefect server has: work pools with their workers, deployments with their schedules, automations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tasks.contracts.addresses import shown, without_secrets
from tasks.contracts.errors import ServiceUnavailableError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_TIMEOUT_S = 10.0
_PAGE = 200


@dataclass(frozen=True)
class PoolState:
    """A work pool."""

    type: str
    is_paused: bool
    workers: tuple[str, ...]
    """Names of those that were heard of lately."""


@dataclass(frozen=True)
class DeploymentState:
    """A deployment."""

    entrypoint: str
    work_pool: str
    is_paused: bool
    parameters: dict[str, Any]
    schedules_on: int
    schedules_off: int


@dataclass(frozen=True)
class PrefectState:
    """All of it, by name."""

    version: str
    pools: dict[str, PoolState]
    deployments: dict[str, DeploymentState]
    """By the deployment's own name, without its flow's."""
    automations: dict[str, bool]
    """Whether each is switched on."""


def read_prefect_state(address: str) -> PrefectState:
    """Ask the server that Prefect's settings name.

    Args:
        address: of that server, for messages.

    Raises:
        ServiceUnavailableError: it does not answer, or refuses.
    """
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT_S}) as client:
            return PrefectState(
                version=client.api_version(),
                pools=_pools(client),
                deployments=_deployments(client),
                automations={one.name: one.enabled for one in client.read_automations()},
            )
    except (httpx.HTTPError, RuntimeError) as error:  # the client tells of an API that is away by RuntimeError
        raise ServiceUnavailableError(
            f"the Prefect server at {shown(address)} (PREFECT_API_URL) did not say what it has: "
            f"{without_secrets(str(error), address)}"
        ) from None


def _pools(client: SyncPrefectClient) -> dict[str, PoolState]:
    found = {}
    for pool in client.read_work_pools(limit=_PAGE):
        workers = client.read_workers_for_work_pool(pool.name, limit=_PAGE)
        live = tuple(worker.name for worker in workers if worker.status.value == "ONLINE")
        found[pool.name] = PoolState(pool.type, pool.is_paused, live)
    return found


def _deployments(client: SyncPrefectClient) -> dict[str, DeploymentState]:
    found: dict[str, DeploymentState] = {}
    while page := client.read_deployments(limit=_PAGE, offset=len(found)):
        for one in page:
            active = [schedule.active for schedule in one.schedules]
            found[one.name] = DeploymentState(
                entrypoint=one.entrypoint or "",
                work_pool=one.work_pool_name or "",
                is_paused=one.paused,
                parameters=one.parameters,
                schedules_on=sum(active),
                schedules_off=len(active) - sum(active),
            )
        if len(page) < _PAGE:
            break
    return found
