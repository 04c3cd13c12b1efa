"""`infra/prefect/deploy.py`: pools, deployments, what people have switched, what is left over; the real server's part
is in tests/e2e/test_deployments.py."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from infra.prefect import deploy
from infra.prefect.declared import read_declared
from infra.prefect.deploy import main
from infra.prefect.drift import Automation, Deployment, Orphan, Schedule
from tests.infra.manifests import ROOT

PREFECT = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
  *--base-job-template*) for last; do :; done; cat "$last" >> {folder}/templates ;;
esac
"""


class Records:
    """A server that has what it is given, on which a deploy resets every switch, as on the real one."""

    def __init__(self) -> None:
        self.has: list[Deployment] = []
        self.made: list[Automation] = []
        self.removed: list[Orphan] = []
        self.shared: list[tuple[str, str]] = []
        self.pools: dict[str, str] = {}
        self._looks = 0

    def pool_types(self) -> dict[str, str]:
        return self.pools

    def deployments(self, tag: str) -> list[Deployment]:
        self._looks += 1
        if self._looks > 1:
            return self.has
        return [replace(one, schedules=tuple(replace(item, active=True) for item in one.schedules)) for one in self.has]

    def automations(self) -> list[Automation]:
        return list(self.made)

    def resume(self, deployment: Deployment, schedule: Schedule) -> None:
        resumed = replace(deployment, schedules=(replace(schedule, active=True),))
        self.has = [resumed if one.id == deployment.id else one for one in self.has]

    def pause(self, automation: Automation) -> None:
        raise AssertionError("nothing was off")

    def put(self, document: dict) -> None:
        self.made = [one for one in self.made if one.name != document["name"]]
        self.made.append(Automation(document["name"], document["name"], True, tuple(document["tags"])))

    def share(self, deployment: Deployment, limit: str) -> None:
        self.shared.append((deployment.name, limit))

    def remove(self, orphan: Orphan) -> None:
        self.removed.append(orphan)


class Server:
    """What was asked of a Prefect command that stands in for the real one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = folder / "prefect"
        command.write_text(PREFECT.format(folder=folder))
        command.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        called = self._folder / "calls"
        lines = called.read_text().splitlines() if called.exists() else []
        return [line.removeprefix("--no-prompt ") for line in lines]

    @property
    def templates(self) -> str:
        return (self._folder / "templates").read_text()


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("CPU_IMAGE", "GPU_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    return Server(tmp_path)


@pytest.fixture(autouse=True)
def records(monkeypatch) -> Records:
    records = Records()
    monkeypatch.setattr(deploy, "connected", lambda: nullcontext(records))
    return records


def test_deploy_makes_both_pools_and_then_the_deployments(server):
    assert main(["process"]) == 0
    assert server.calls == [
        "work-pool create cpu --type process --overwrite",
        "work-pool create gpu --type process --overwrite",
        "deploy --all",
    ]


def test_deploy_gives_kubernetes_pools_their_templates_with_the_images_that_are_named(server, records, monkeypatch):
    records.pools = {"cpu": "kubernetes"}
    monkeypatch.setenv("CPU_IMAGE", "registry.example/cpu:1")
    assert main(["kubernetes"]) == 0

    assert [call.partition(" --base")[0] for call in server.calls] == [
        "work-pool create cpu --type kubernetes --overwrite",
        "work-pool create gpu --type kubernetes --overwrite",
        "deploy --all",
    ]
    assert "registry.example/cpu:1" in server.templates
    assert "stillhouse/worker-cuda:" in server.templates


def test_deploy_leaves_a_pool_of_another_type_alone_and_says_what_to_do(server, records, capsys):
    records.pools = {"gpu": "kubernetes"}
    assert main(["process"]) == 1

    assert server.calls == []
    assert "prefect work-pool delete gpu" in capsys.readouterr().err


def test_deploy_limits_the_runs_of_a_pool_where_that_is_asked_for(server, monkeypatch):
    monkeypatch.setenv("GPU_RUNS", "4")
    assert main(["process"]) == 0
    assert [call for call in server.calls if "limit" in call] == ["work-pool set-concurrency-limit gpu 4"]


def test_deploy_leaves_a_schedule_on_that_was_on_and_makes_automations_once(server, records, capsys):
    records.has = [Deployment("1", "reconcile-models/registry", (Schedule("s", "every-five-minutes", active=False),))]
    assert main(["process"]) == 0
    assert main(["process"]) == 0

    assert records.has[0].schedules[0].active
    assert "schedule every-five-minutes of reconcile-models/registry stays on" in capsys.readouterr().out
    assert [one.name for one in records.made] == ["stillhouse: runs without a heartbeat", "stillhouse: crashed runs"]


def test_deploy_tells_what_no_file_names_and_removes_it_only_with_prune(server, records, capsys):
    records.has = [Deployment("1", "compress-plan/old")]
    assert main(["process"]) == 0
    assert "deployment compress-plan/old is in no file: --prune removes it" in capsys.readouterr().out
    assert records.removed == []

    assert main(["process", "--prune"]) == 0
    assert records.removed == [Orphan("deployment", "compress-plan/old", "1")]


def test_deploy_has_deployments_of_one_model_share_a_limit_once(server, records):
    limit = "one-run:digits"
    names = list(read_declared(ROOT / "prefect.yaml").limits)
    records.has = [
        Deployment("1", "reconcile-models/registry", limit="deployment:1"),
        *(Deployment(name, name, limit=f"deployment:{name}") for name in names[1:]),
        Deployment("9", names[0], limit=limit),
    ]
    assert main(["process"]) == 0
    assert records.shared == [(name, limit) for name in names[1:]]


def test_deploy_refuses_a_file_whose_deployments_it_would_not_know_again(server, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows.py").write_text("@flow(name='f')\ndef f(): ...\n")
    (tmp_path / "prefect.yaml").write_text("{name: mine, deployments: [{name: d, entrypoint: 'flows.py:f'}]}")
    assert main(["process"]) == 2
    assert "deployment f/d lacks the tag mine" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["docker"], ["process", "kubernetes"], ["--prune"]])
def test_deploy_refuses_what_is_no_type(server, arguments, capsys):
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err
