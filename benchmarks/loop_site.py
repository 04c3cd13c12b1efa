"""A small site on this machine: `stillhouse up`, the deployments of `prefect.yaml`, and a process worker."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.plan_runs import ROOT
from tasks.contracts.errors import ServiceUnavailableError
from tasks.runtime.embedded import running_services
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings

PLAN = Path("plans/digits.yaml")
"""Where `prefect.yaml` looks for the plan, from the project's root."""
_POOL = "cpu"
_READY_WITHIN_S = 900.0
_STOP_WITHIN_S = 60.0


def make_project(monitor: Mapping[str, Any]) -> Path:
    """Make a checkout below the benchmark's home, of which this process and its children take their settings.

    It has the flows and the deployments of this one; `monitor` replaces entries of the deployment `digits-monitor`.
    """
    project = current_settings().home / "project"
    (project / PLAN.parent).mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    (monitored,) = [one for one in deployed["deployments"] if one["name"] == "digits-monitor"]
    monitored.update(monitor)
    (project / "prefect.yaml").write_text(yaml.safe_dump(deployed, sort_keys=False), encoding="utf-8")
    os.environ["STILLHOUSE_PROJECT"] = str(project)
    os.environ["PYTHONPATH"] = str(ROOT)  # children run the code of this process, wherever they start
    _forget_settings()
    return project


@contextmanager
def engines(project: Path) -> Iterator["Site"]:
    """Run Prefect's server, MLflow's and a gateway that samples every input.

    Raises:
        ServiceUnavailableError: one did not start; the folder of the logs is named.
    """
    ports = _free_ports(3)
    options = zip(("--prefect-port", "--mlflow-port", "--gateway-port"), map(str, ports), strict=True)
    up = [sys.executable, "-m", "flows.cli", "up", *(word for pair in options for word in pair)]
    os.environ["STILLHOUSE_GATEWAY_URL"] = f"http://127.0.0.1:{ports[2]}"
    _forget_settings()
    with _child(up, project, {"STILLHOUSE_SAMPLE_INPUTS": "1"}) as services:
        address = _prefect_address(services)
        os.environ["PREFECT_API_URL"] = address  # before prefect is imported, which reads it then
        yield Site(address)


@contextmanager
def deployed(project: Path) -> Iterator[None]:
    """Deploy what `prefect.yaml` names, and run a worker for it.

    Raises:
        ServiceUnavailableError: `prefect` refused; its words are in the message.
    """
    for pool in (_POOL, "gpu"):  # deploying asks for both; nothing here runs in the latter
        _prefect(project, "work-pool", "create", pool, "--type", "process")
    _prefect(project, "deploy", "--all")
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", _POOL, "--type", "process"]
    with _child(worker, project, {}):
        yield


class Site:
    """What the Prefect server knows."""

    def __init__(self, prefect_api: str) -> None:
        self._api = prefect_api

    def start(self, deployment: str) -> None:
        """Have a deployment run once, by its parameters."""
        (found,) = self._post("/deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        self._post(f"/deployments/{found['id']}/create_flow_run", {})

    @contextmanager
    def starting(self, deployment: str, every_s: float) -> Iterator[None]:
        """Have a deployment run again and again while the block runs, as its schedule would."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            done = threading.Event()

            def start_until_done() -> None:
                while not done.wait(every_s):
                    self.start(deployment)

            started = thread.submit(start_until_done)
            try:
                yield
            finally:
                done.set()
            started.result()

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the flow runs of a deployment, oldest first."""
        found = self._post("/flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}})
        return sorted(found, key=lambda run: str(run["created"]))

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the events of these names that the server received, oldest first."""
        found = self._post("/events/filter", {"filter": {"event": {"name": list(names)}}})
        return sorted(found["events"], key=lambda event: str(event["received"]))

    def _post(self, path: str, wanted: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self._api}{path}", json=wanted, timeout=30.0, trust_env=False)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def _child(command: list[str], project: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    log_path = current_settings().home / "logs" / f"{command[2]}-{command[3]}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=project, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _prefect_address(services: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _READY_WITHIN_S
    while not (addresses := running_services(current_settings())):
        if services.poll() is not None or time.monotonic() > deadline:
            raise ServiceUnavailableError(f"`stillhouse up` did not start; see {current_settings().home / 'logs'}")
        time.sleep(0.5)
    return addresses["prefect_api"]


def _prefect(project: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceUnavailableError(f"`prefect {' '.join(arguments)}` failed: {done.stdout}{done.stderr}")


def _free_ports(num: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(num)]
        return [int(one.getsockname()[1]) for one in taken]


def _forget_settings() -> None:
    for cached in (current_settings, connect):
        cached.cache_clear()
