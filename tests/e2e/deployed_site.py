"""A site as deploy.py makes it: a Prefect server of its own, a project with a small plan, and workers that can die."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.e2e.conftest import CHECKOUT, SMALL_PLAN
from tests.flows.prefect_world import PrefectServer, until

_BIN = str(Path(sys.executable).parent)
PATIENCE_S = 900.0


@dataclass(frozen=True)
class Site:
    """The server, and everything that is asked of it here."""

    server: PrefectServer
    project: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("STILLHOUSE", "PREFECT"))}
        given = {name: value for name, value in self.server.environment.items() if name.startswith("PREFECT")}
        return own | given | {
            "STILLHOUSE_HOME": str(self.home),
            "STILLHOUSE_PROJECT": str(self.project),
            "STILLHOUSE_BASELINES": str(self.project / "baselines"),
            "PYTHONPATH": str(CHECKOUT),
            "PATH": f"{_BIN}:{os.environ['PATH']}",
        }  # fmt: skip

    def deploy(self, *arguments: str) -> str:
        """Run deploy.py as one does, and return what it said itself."""
        command = [sys.executable, str(CHECKOUT / "infra/prefect/deploy.py"), "process", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=self.project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def worker(self, limit: int) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a worker of the pool `cpu`; it dies, with what it runs, at the block's end."""
        start = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", "cpu"]
        with (self.home / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [*start, "--limit", str(limit)], env=self.environment, cwd=self.project, stdout=log, stderr=log
            )
        try:
            yield worker
        finally:
            if worker.poll() is None:
                kill([*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)])
            worker.wait(60)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server's API; one that is too busy is asked again."""

        def answer() -> httpx.Response | None:
            got = httpx.request(method, f"{self.server.address}{path}", json=body, trust_env=False, timeout=120)
            return None if got.status_code == httpx.codes.SERVICE_UNAVAILABLE else got

        got: httpx.Response = until(answer, PATIENCE_S, f"{method} {path}: always too busy")
        got.raise_for_status()
        return got.json() if got.content else None

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.server.filtered("deployments")}

    def start(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run as `prefect deployment run` does, and return its id."""
        known = self.deployments()[deployment]["id"]
        run: dict[str, Any] = self.ask("POST", f"/deployments/{known}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run_id}")
        return found

    def all_runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment, those of later days included."""
        wanted = {"id": {"any_": [self.deployments()[deployment]["id"]]}}
        return self.server.filtered("flow_runs", deployments=wanted)

    def cancel(self, *run_ids: str) -> None:
        """End runs on the server, whatever their processes do; those that have ended stay as they are."""
        for run_id in run_ids:
            if self.run(run_id)["state_type"] not in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
                body = {"state": {"type": "CANCELLED"}, "force": True}
                self.ask("POST", f"/flow_runs/{run_id}/set_state", body)

    def reaches(self, run_id: str, *states: str, starts: int = 0) -> dict[str, Any]:
        """Wait until a run is in one of the states (types, or names), having begun `starts` times; return it."""

        def there() -> dict[str, Any] | None:
            run = self.run(run_id)
            in_state = run["state_type"] in states or run["state_name"] in states
            return run if in_state and run["run_count"] >= starts else None

        found: dict[str, Any] = until(there, PATIENCE_S, f"never {states}: {self.run(run_id)}")
        return found

    def history(self, run_id: str) -> list[tuple[str, datetime]]:
        """Return the states that a run was in, and since when."""
        states = self.ask("GET", f"/flow_run_states/?flow_run_id={run_id}")
        return sorted(
            ((one["type"], datetime.fromisoformat(one["timestamp"])) for one in states), key=lambda pair: pair[1]
        )


def kill(processes: list[psutil.Process]) -> float:
    """SIGKILL them all; return when."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)
    return time.time()


def flow_processes(worker: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return the processes that a worker runs flows in."""
    return psutil.Process(worker.pid).children()


def small_plan(name: str, **changes: Any) -> str:
    """Return the text of a plan of seconds; `changes` replace keys of its only training stage after the baseline."""
    plan = yaml.safe_load(yaml.safe_dump(SMALL_PLAN)) | {"name": name}
    plan["candidates"]["student"][0] |= changes
    return yaml.safe_dump(plan)


def lay_out(server: PrefectServer, folder: Path) -> Site:
    """Make a project like this checkout, with a small plan for the model `digits`."""
    project, home = folder / "project", folder / "home"
    home.mkdir()
    shutil.copytree(CHECKOUT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "plans").mkdir()
    (project / "plans" / "digits.yaml").write_text(small_plan("digits"))
    for name in ("prefect.yaml", "data.dvc", ".dvcignore"):
        shutil.copy(CHECKOUT / name, project)
    (project / ".dvc").mkdir()
    shutil.copy(CHECKOUT / ".dvc" / "config", project / ".dvc")
    return Site(server, project, home)


_LIGHT_FLOWS = """
import time

from prefect import flow


@flow
def linger(seconds: float = 600.0) -> None:
    time.sleep(seconds)


@flow
def tidy(reason: str = "") -> None:
    pass
"""


def lay_out_light(server: PrefectServer, folder: Path, deployments: list[dict[str, Any]]) -> Site:
    """Make a project named `mine` whose flows do nothing, soon: what is tested of it is the server's to do."""
    project, home = folder / "project", folder / "home"
    project.mkdir()
    home.mkdir()
    (project / "flows.py").write_text(_LIGHT_FLOWS)
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}]
    document = {"name": "mine", "pull": pull, "deployments": deployments}
    (project / "prefect.yaml").write_text(yaml.safe_dump(document))
    return Site(server, project, home)
