"""`infra/prefect/deploy.py`: pools first, then deployments, and never a pool of another type."""

import json
from pathlib import Path

import pytest

from infra.prefect.deploy import main

PREFECT = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
  *"work-pool ls"*) cat {folder}/pools ;;
  *--base-job-template*) for last; do :; done; cat "$last" >> {folder}/templates ;;
esac
"""


class Server:
    """What was asked of a Prefect command that stands in for the real one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.has({})
        command = folder / "prefect"
        command.write_text(PREFECT.format(folder=folder))
        command.chmod(0o755)

    def has(self, types: dict[str, str]) -> None:
        pools = [{"name": name, "type": one} for name, one in types.items()]
        (self._folder / "pools").write_text(json.dumps(pools))

    @property
    def calls(self) -> list[str]:
        lines = (self._folder / "calls").read_text().splitlines()
        return [line.removeprefix("--no-prompt ") for line in lines if "work-pool ls" not in line]

    @property
    def templates(self) -> str:
        return (self._folder / "templates").read_text()


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("CPU_IMAGE", "GPU_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    return Server(tmp_path)


def test_deploy_makes_both_pools_and_then_the_deployments(server):
    assert main(["process"]) == 0
    assert server.calls == [
        "work-pool create cpu --type process --overwrite",
        "work-pool create gpu --type process --overwrite",
        "deploy --all",
    ]


def test_deploy_gives_kubernetes_pools_their_templates_with_the_images_that_are_named(server, monkeypatch):
    server.has({"cpu": "kubernetes"})
    monkeypatch.setenv("CPU_IMAGE", "registry.example/cpu:1")
    assert main(["kubernetes"]) == 0

    assert [call.partition(" --base")[0] for call in server.calls] == [
        "work-pool create cpu --type kubernetes --overwrite",
        "work-pool create gpu --type kubernetes --overwrite",
        "deploy --all",
    ]
    assert "registry.example/cpu:1" in server.templates
    assert "stillhouse/worker-cuda:" in server.templates


def test_deploy_leaves_a_pool_of_another_type_alone_and_says_what_to_do(server, capsys):
    server.has({"gpu": "kubernetes"})
    assert main(["process"]) == 1

    assert server.calls == ["work-pool create cpu --type process --overwrite"]
    assert "prefect work-pool delete gpu" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["docker"], ["process", "kubernetes"]])
def test_deploy_refuses_what_is_no_type(server, arguments, capsys):
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err
