"""`stillhouse up` and `stillhouse down` as a user calls them, with PostgreSQL and a worker."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tasks.runtime.own_postgres import DATABASES, OwnPostgres
from tasks.runtime.placement import visible_gpus
from tasks.runtime.processes import is_running, marked
from tasks.runtime.service_state import MARK, ServicesState
from tests.postgres_server import why_missing

NOT_AS_ROOT = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
"""Makes root somebody else to himself, with the same rights to files; PostgreSQL then runs."""
CHECKOUT = Path(__file__).parents[2]


def why_not() -> str:
    """Say what keeps PostgreSQL from being run by this user; empty if nothing does."""
    if NOT_AS_ROOT and subprocess.run([*NOT_AS_ROOT, "true"], capture_output=True, check=False).returncode:
        return "PostgreSQL does not run as root, and user namespaces are not to be had"
    return why_missing()


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.skipif(bool(why_not()), reason=why_not())]

ENGINES = ["postgres", "prefect_api", "mlflow", "gateway"]
FREE_PORTS = ("--prefect-port=0", "--mlflow-port=0", "--gateway-port=0")


class Machine:
    """The command with a home of its own, as a user that PostgreSQL accepts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.project = folder, folder / "home", folder / "project"
        self.project.mkdir()
        for name in ("data.dvc", "prefect.yaml"):
            shutil.copy(CHECKOUT / name, self.project)
        for name in ("flows", "plans"):
            shutil.copytree(CHECKOUT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT", "STILLHOUSE", "MLFLOW"))
        } | {
            "HOME": str(self.folder),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "STILLHOUSE_HOME": str(self.home),
            "STILLHOUSE_PROJECT": str(self.project),
            "STILLHOUSE_BASELINES": str(self.folder / "baselines"),
        }
        return subprocess.Popen(
            [*NOT_AS_ROOT, sys.executable, "-m", "flows.cli", *arguments], env=environment, cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def call(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == code, output + self.logs()
        return " ".join(output.split())

    @property
    def state(self) -> ServicesState:
        return ServicesState.model_validate_json((self.home / "services.json").read_bytes())

    def logs(self) -> str:
        return "".join(f"\n== {path.name}\n{path.read_text()[-3000:]}" for path in (self.home / "logs").glob("*.log"))


@pytest.fixture
def machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-up-"))
    made = Machine(folder)
    try:
        yield made
    finally:
        made.call("down")
        shutil.rmtree(folder)


def eventually(condition: Any, within_s: float = 300.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def query(machine: Machine, database: str, statement: str) -> list[tuple[Any, ...]]:
    import psycopg

    own = OwnPostgres(machine.home)
    with psycopg.connect(
        host=str(own.socket_folder), user=database, dbname=database, passfile=str(own.password_file)
    ) as connection:
        return connection.execute(statement).fetchall()


def run_deployment(machine: Machine, name: str) -> dict[str, Any]:
    """Have the worker run a deployment, and return the flow run when it has ended."""
    api = next(one.address for one in machine.state.services if one.name == "prefect_api")
    wanted = {"deployments": {"name": {"any_": [name]}}}
    (deployment,) = httpx.post(f"{api}/deployments/filter", json=wanted, timeout=60).json()
    made = httpx.post(f"{api}/deployments/{deployment['id']}/create_flow_run", json={}, timeout=60).json()

    def ended() -> Any:
        run = httpx.get(f"{api}/flow_runs/{made['id']}", timeout=60).json()
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return eventually(ended)


def require_secrets_are_kept(machine: Machine, state: ServicesState) -> None:
    passwords = OwnPostgres(machine.home).password_file
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    secrets = [line.rpartition(":")[2] for line in passwords.read_text().splitlines()]
    assert len(set(secrets)) == len(DATABASES) + 1
    said = machine.logs() + state.model_dump_json()
    for service in state.services:
        for process in [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children()]:
            said += " ".join(process.cmdline())
    assert not [secret for secret in secrets if secret in said]


def require_only_loopback(state: ServicesState) -> None:
    pids = {process.pid for one in state.services for process in {one.process} | marked(MARK, one.mark)}
    listening = [one for one in psutil.net_connections("inet") if one.pid in pids and one.status == "LISTEN"]
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    assert state.services[0].process.pid not in {one.pid for one in listening}  # PostgreSQL


def require_nothing_left(state: ServicesState) -> None:
    assert not is_running(state.supervisor)
    for service in state.services:
        assert not is_running(service.process), service.name
        assert marked(MARK, service.mark) == set(), service.name


def test_up_runs_everything_in_postgresql_and_nothing_outlives_a_killed_service_or_ctrl_c(machine: Machine) -> None:
    said = machine.call("up", "--postgres", "--worker", "--detach", *FREE_PORTS)
    state = machine.state
    workers = ["worker", "worker-gpu"] if visible_gpus() else ["worker"]
    assert [one.name for one in state.services] == [*ENGINES, *workers]
    assert all(f"{name}: " in said for name in (*ENGINES, *workers))
    require_secrets_are_kept(machine, state)
    require_only_loopback(state)
    assert "run already" in machine.call("up", *FREE_PORTS, code=2)

    run = run_deployment(machine, "registry")
    assert run["state_type"] == "COMPLETED", json.dumps(run["state"]) + machine.logs()
    assert query(machine, "prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'") == [(1,)]
    assert query(machine, "mlflow", "SELECT count(*) FROM experiments")[0][0] >= 1
    assert query(machine, "ledger", "SELECT count(*) FROM promotions") == [(0,)]
    assert not list(machine.home.glob("*.db"))

    killed = next(one for one in state.services if one.name == "mlflow")
    os.kill(killed.process.pid, signal.SIGKILL)
    eventually(lambda: not is_running(state.supervisor))
    assert machine.state.failure.startswith(f"mlflow was ended by SIGKILL; see {killed.log}")
    require_nothing_left(state)
    assert "mlflow was ended by SIGKILL" in machine.call("down")
    assert "nothing runs here" in machine.call("down")

    # the home keeps to its cluster, and Ctrl-C ends all of it
    foreground = machine.start("up", *FREE_PORTS)
    state = eventually(lambda: (machine.home / "services.json").exists() and machine.state.ready and machine.state)
    assert [one.name for one in state.services] == ENGINES
    assert query(machine, "prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'") == [(1,)]
    foreground.send_signal(signal.SIGINT)
    output, _ = foreground.communicate(timeout=200)
    assert foreground.returncode == 0, output
    require_nothing_left(state)
    assert not (machine.home / "services.json").exists()
    assert "received fast shutdown request" in (machine.home / "logs" / "postgres.log").read_text()


def test_down_ends_what_a_killed_up_left_behind(machine: Machine) -> None:
    machine.call("up", "--postgres", "--detach", *FREE_PORTS)
    state = machine.state
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not is_running(state.supervisor))
    assert "earlier `stillhouse up`" in machine.call("up", *FREE_PORTS, code=2)
    assert "ended: gateway, mlflow, prefect_api, postgres" in machine.call("down")
    require_nothing_left(state)
    log = (machine.home / "logs" / "postgres.log").read_text()
    assert log.rstrip().endswith("database system is shut down")
    assert "database system was not properly shut down" not in log
