"""The Prefect server, as far as `deploy.py` reads and changes it beside `prefect deploy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.prefect.drift import Automation, Deployment, Orphan, Schedule

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_PAGE = 200


class Server:
    """Its deployments, schedules, automations and limits."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client

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
        self._client.request("PATCH", f"/deployments/{deployment.id}/schedules/{schedule.id}", json={"active": True})

    def pause(self, automation: Automation) -> None:
        """Switch an automation off."""
        self._client.request("PATCH", f"/automations/{automation.id}", json={"enabled": False})

    def put(self, document: dict[str, Any]) -> None:
        """Create an automation, or make the one of its name equal to the document; its switch stays as it is."""
        known = [one for one in self.automations() if one.name == document["name"]]
        if not known:
            self._client.request("POST", "/automations/", json=document)
            return
        body = document | {"enabled": known[0].enabled}
        self._client.request("PUT", f"/automations/{known[0].id}", json=body)
        for double in known[1:]:  # two deploys at once made it twice
            self._client.request("DELETE", f"/automations/{double.id}")

    def share(self, deployment: Deployment, limit: str) -> None:
        """Have the runs of a deployment counted by the limit of that name, together with those of others."""
        self._client.upsert_global_concurrency_limit_by_name(limit, 1)
        known = self._client.read_global_concurrency_limit_by_name(limit)
        body = {"global_concurrency_limit_id": str(known.id)}
        self._client.request("PATCH", f"/deployments/{deployment.id}", json=body)

    def remove(self, orphan: Orphan) -> None:
        """Remove something; with a deployment go its triggers, its schedules and the runs that wait to begin."""
        match orphan.kind:
            case "deployment":
                self._client.request("DELETE", f"/automations/owned-by/prefect.deployment.{orphan.id}")
                self._client.request("DELETE", f"/deployments/{orphan.id}")
            case "schedule":
                self._client.request("DELETE", f"/deployments/{orphan.deployment_id}/schedules/{orphan.id}")
            case "automation":
                self._client.request("DELETE", f"/automations/{orphan.id}")

    def _all(self, path: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
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
