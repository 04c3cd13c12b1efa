"""What `infra/prefect/server.py` asks of Prefect's API; the answers are a real server's in tests/e2e."""

from types import SimpleNamespace
from typing import Any

import pytest

from infra.prefect.drift import Deployment, Orphan, Schedule
from infra.prefect.server import Server


class Client:
    """Prefect's client as far as it is used: it answers filters with pages, and keeps what is changed."""

    def __init__(self, **kinds: list[dict[str, Any]]) -> None:
        self._kinds = kinds
        self.changed: list[tuple[str, str, Any]] = []

    def request(self, method: str, path: str, path_params: Any = None, json: Any = None) -> Any:
        if path.endswith("/filter"):
            found = self._kinds.get(path.split("/")[1], [])
            return SimpleNamespace(json=lambda: found[json["offset"] : json["offset"] + json["limit"]])
        self.changed.append((method, path.format(**(path_params or {})), json))
        return None


def automation(number: int, name: str = "a", *, enabled: bool = True) -> dict[str, Any]:
    return {"id": str(number), "name": name, "enabled": enabled, "tags": ["mine-deploy"]}


def test_deployments_have_the_names_under_which_prefect_shows_them():
    found = {
        "id": "d", "flow_id": "f", "name": "digits", "global_concurrency_limit": {"name": "one-run:digits"},
        "schedules": [{"id": "s", "slug": "nightly", "active": True}],
    }  # fmt: skip
    free = found | {"id": "e", "name": "other", "global_concurrency_limit": None, "schedules": []}
    server = Server(Client(flows=[{"id": "f", "name": "compress-plan"}], deployments=[found, free]))

    assert server.deployments("mine") == [
        Deployment("d", "compress-plan/digits", (Schedule("s", "nightly", True),), "one-run:digits"),
        Deployment("e", "compress-plan/other"),
    ]


@pytest.mark.parametrize("number", [0, 199, 200, 201, 400])
def test_automations_are_all_however_many_a_page_holds(number):
    server = Server(Client(automations=[automation(one) for one in range(number)]))
    assert len(server.automations()) == number


def test_put_creates_what_is_not_there():
    client = Client(automations=[automation(1, "other")])
    Server(client).put({"name": "a"})
    assert client.changed == [("POST", "/automations/", {"name": "a"})]


def test_put_updates_what_is_there_leaves_its_switch_and_removes_doubles():
    client = Client(automations=[automation(1, "other"), automation(2, enabled=False), automation(3)])
    Server(client).put({"name": "a"})
    assert client.changed == [
        ("PUT", "/automations/2", {"name": "a", "enabled": False}),
        ("DELETE", "/automations/3", None),
    ]


@pytest.mark.parametrize(
    ("orphan", "paths"),
    [
        (Orphan("deployment", "f/d", "1"), ["/automations/owned-by/prefect.deployment.1", "/deployments/1"]),
        (Orphan("schedule", "f/d nightly", "2", "1"), ["/deployments/1/schedules/2"]),
        (Orphan("automation", "a", "3"), ["/automations/3"]),
    ],
)
def test_remove_takes_along_what_would_be_left_over(orphan, paths):
    client = Client()
    Server(client).remove(orphan)
    assert client.changed == [("DELETE", path, None) for path in paths]
