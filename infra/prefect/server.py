"""The Prefect server, as far as `deploy.py` reads and changes it beside `prefect deploy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.prefect.drift import Automation, Deployment, Orphan, Schedule

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.orchestration.base import HTTP_METHODS
    from prefect.client.orchestration.routes import ServerRoutes

_PAGE = 200


class Server:
    """Its pools, deployments, schedules, automations and limits."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client

    def pool_types(self) -> dict[str, str]:
        """Return the type of every work pool, by its name."""
        return {one["name"]: one["type"] for one in self._all("/work_pools/filter", {})}

    def deployments(self, tag: str) -> list[Deployment]:
        """Return the deployments that have `tag`."""
        flows = {one["id"]: one["name"] for one in self._all("/flows/filter", {})}
        found = self._all("/deployments/filter", {"deployments": {"tags": {"all_": [tag]}}})
        return [
            Deployment(
                id=one["id"],
                name=f"{flows[one['flow_id']]}/{one['name']}",
                schedules=tuple(Schedule(item["id"], item["slug"], item["active"]) for item in one["schedules"]),
                limit=(one["global_concurrency_limit"] or {}).get("name"),
            )
            for one in found
        ]

    def automations(self) -> list[Automation]:
        """Return all automations, whoever made them."""
        return [
            Automation(one["id"], one["name"], one["enabled"], tuple(one["tags"]))
            for one in self._all("/automations/filter", {})
        ]

    def resume(self, deployment: Deployment, schedule: Schedule) -> None:
        """Switch a schedule on."""
        place = {"id": deployment.id, "schedule_id": schedule.id}
        self._send("PATCH", "/deployments/{id}/schedules/{schedule_id}", place, {"active": True})

    def pause(self, automation: Automation) -> None:
        """Switch an automation off."""
        self._send("PATCH", "/automations/{id}", {"id": automation.id}, {"enabled": False})

    def put(self, document: dict[str, Any]) -> None:
        """Create an automation, or make the one of its name equal to the document; its switch stays as it is."""
        known = [one for one in self.automations() if one.name == document["name"]]
        if not known:
            self._send("POST", "/automations/", {}, document)
            return
        self._send("PUT", "/automations/{id}", {"id": known[0].id}, document | {"enabled": known[0].enabled})
        for double in known[1:]:  # two deploys at once made it twice
            self._send("DELETE", "/automations/{id}", {"id": double.id})

    def share(self, deployment: Deployment, limit: str) -> None:
        """Have the runs of a deployment counted by the limit of that name, together with those of others."""
        self._client.upsert_global_concurrency_limit_by_name(limit, 1)
        known = self._client.read_global_concurrency_limit_by_name(limit)
        body = {"global_concurrency_limit_id": str(known.id)}
        self._send("PATCH", "/deployments/{id}", {"id": deployment.id}, body)

    def remove(self, orphan: Orphan) -> None:
        """Remove something; with a deployment go its triggers, its schedules and the runs that wait to begin."""
        match orphan.kind:
            case "deployment":
                owner = {"resource_id": f"prefect.deployment.{orphan.id}"}
                self._send("DELETE", "/automations/owned-by/{resource_id}", owner)
                self._send("DELETE", "/deployments/{id}", {"id": orphan.id})
            case "schedule":
                place = {"id": orphan.deployment_id, "schedule_id": orphan.id}
                self._send("DELETE", "/deployments/{id}/schedules/{schedule_id}", place)
            case "automation":
                self._send("DELETE", "/automations/{id}", {"id": orphan.id})

    def _send(self, method: HTTP_METHODS, path: ServerRoutes, place: dict[str, str], body: Any = None) -> None:
        self._client.request(method, path, path_params=place, json=body)

    def _all(self, path: ServerRoutes, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            body = wanted | {"limit": _PAGE, "offset": len(found)}
            page = self._client.request("POST", path, json=body).json()
            found += page
            if len(page) < _PAGE:
                return found


@contextmanager
def connected() -> Iterator[Server]:
    """Connect to the server that PREFECT_API_URL, or the profile in use, names."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield Server(client)
