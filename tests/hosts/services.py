"""What runs where on the hosts: the control host with its servers, a Ray cluster, gateways, and hosts for flows."""

import json
import os
import pwd
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.adapters.s3_server import CREDENTIALS
from tests.hosts.network import SUBNET, Host, Network, Process
from tests.postgres_server import programs

CHECKOUT = Path(__file__).parents[2]
BUCKET = "stillhouse"
HOSTS = {
    "control": 10, "head": 11, "worker-1": 21, "worker-2": 22, "gateway-1": 31, "gateway-2": 32, "flow-1": 41,
    "flow-2": 42,
}  # fmt: skip
_READY_WITHIN_S = 240.0
_RAY = str(Path(sys.executable).with_name("ray"))
SCRATCH = Path("/mnt")
"""Where programs of a host write what they keep: a small disk of its own."""
_SCRATCH_MIB = 128

SETTINGS = {
    "STILLHOUSE_STORE_URL": f"s3://{BUCKET}/store",
    "STILLHOUSE_TRAFFIC_URL": f"s3://{BUCKET}/traffic",
    "STILLHOUSE_S3_ENDPOINT": "http://control:9000",
    "STILLHOUSE_LEDGER_URL": "postgresql+psycopg://stillhouse@control/ledger",
    "STILLHOUSE_TRACKING_URL": "http://control:5000",
    "STILLHOUSE_GATEWAY_URL": "http://gateway-1:8080",
    "STILLHOUSE_EXECUTION": "ray",
    "STILLHOUSE_RAY_ADDRESS": "ray://head:10001",
    "STILLHOUSE_PLACEMENT_TIMEOUT_S": "300",
    "PREFECT_API_URL": "http://control:4200/api",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "AWS_DEFAULT_REGION": "us-east-1",
} | CREDENTIALS


@dataclass(frozen=True)
class Service:
    """One program on one host."""

    host: str
    command: Sequence[str]
    ready: Sequence[str] = ("true",)
    """A command that succeeds on the host as soon as the service answers."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Site:
    """All hosts with their services; `stop` leaves nothing behind."""

    EMBEDDED: ClassVar = {
        "STILLHOUSE_EXECUTION": "local",
        "STILLHOUSE_STORE_URL": "",
        "STILLHOUSE_TRAFFIC_URL": "",
        "STILLHOUSE_LEDGER_URL": "",
        "STILLHOUSE_TRACKING_URL": "",
        "PREFECT_API_URL": "",
    }
    """Settings of a run that uses none of the services, only its own host."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stillhouse-hosts-", dir="/var/tmp"))  # /tmp is each host's own
        self.folder.chmod(0o755)
        self.network = Network(self.folder, HOSTS)
        self.running: dict[str, Process] = {}
        try:
            for host in self.network:
                _prepare(host)
            self._start_database()
            self.start("s3", "s3-front")
            self._make_bucket()
            self.start("prefect", "mlflow", "head", "mirror-1", "mirror-2", "gateway-1", "gateway-2")
            self.start("worker-1", "worker-2")
        except BaseException:
            self.stop()
            raise

    def start(self, *names: str, prefix: Sequence[str] = ()) -> None:
        """Start services and wait until all answer; `prefix` is put before their commands."""
        services = _services(self.folder)
        for name in names:
            service = services[name]
            host = self.network[service.host]
            environment = environment_of(host) | dict(service.environment)
            command = [*prefix, *service.command]
            self.running[name] = Process(host, command, environment, self.folder / f"{name}.log", host.home)
        for name in names:
            self._wait_until_ready(name, services[name])

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a service."""
        self.running.pop(name).end(how)

    def restart(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a service and start it again."""
        self.end(name, how)
        self.start(name)

    def s3_answers(self, mode: str) -> None:
        """Say how the way to S3 behaves: `well`, with a `503`, or `slow N` (bytes a second)."""
        place = self.folder / "s3-mode"
        place.with_suffix(".part").write_text(mode)
        place.with_suffix(".part").replace(place)

    def keys(self, prefix: str) -> list[str]:
        """List the objects whose keys begin so."""
        query = f"http://control:9001/{BUCKET}?list-type=2&prefix={prefix}"
        return re.findall(r"<Key>([^<]*)</Key>", self.network["control"].run("curl", "-sS", query))

    def query(self, database: str, statement: str) -> list[list[str]]:
        """Run a statement in PostgreSQL and return its rows."""
        arguments = ["-h", "control", "-U", "stillhouse", "-AtX", "-F", "\t", "-d", database, "-c", statement]
        return [line.split("\t") for line in self.network["control"].run("psql", *arguments).splitlines()]

    def forget_stages(self) -> None:
        """Make the next run compute everything: records and checkpoints go, artifacts and ledger stay."""
        self.query("ledger", "DELETE FROM stage_records")
        for key in [*self.keys("store/stages/"), *self.keys("store/checkpoints/")]:
            self.network["control"].run("curl", "-sS", "-X", "DELETE", f"http://control:9001/{BUCKET}/{key}")

    def run_plan(self, plan: Mapping[str, Any], host: str = "flow-1", *options: str, **settings: str) -> "Run":
        """Start `stillhouse run` on a host; `settings` are added to its environment."""
        return Run(self, self.network[host], plan, options, settings)

    def stop(self) -> None:
        """End all that runs and remove the files, unless STILLHOUSE_KEEP_HOSTS asks for them."""
        self.network.stop()
        if "STILLHOUSE_KEEP_HOSTS" not in os.environ:
            shutil.rmtree(self.folder)

    def _start_database(self) -> None:
        owner = pwd.getpwnam("postgres")
        data = self.folder / "postgres"
        data.mkdir()
        os.chown(data, owner.pw_uid, owner.pw_gid)
        arguments = ["-D", str(data / "data"), "-U", "stillhouse", "-A", "trust", "-E", "UTF8", "--no-sync"]
        self.network["control"].run(*_AS_POSTGRES, str(programs() / "initdb"), *arguments)
        with (data / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {SUBNET}.0/24 trust\n")
        self.start("postgres")
        for name in ("ledger", "prefect", "mlflow"):
            self.query("postgres", f"CREATE DATABASE {name}")

    def _make_bucket(self) -> None:
        for bucket in (BUCKET, "mlflow"):
            self.network["control"].run("curl", "-sSf", "-X", "PUT", f"http://control:9001/{bucket}")

    def _wait_until_ready(self, name: str, service: Service) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            with suppress(AssertionError):
                self.network[service.host].run(*service.ready, environment=environment_of(self.network[service.host]))
                return
            process = self.running[name]
            assert process.code is None, f"{name} ended: {process.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{name} does not answer: {process.log.read_text()[-3000:]}"
            time.sleep(0.5)


class Run:
    """One `stillhouse run` on one host."""

    def __init__(
        self, site: Site, host: Host, plan: Mapping[str, Any], options: Sequence[str], settings: Mapping[str, str]
    ) -> None:
        self.site = site
        self.host = host
        number = len(list(host.folder.glob("*.log"))) + 1
        written, self._record = host.home / f"plan-{number}.yaml", host.home / f"record-{number}.json"
        written.write_text(yaml.safe_dump(dict(plan)))
        command = [sys.executable, "-m", "flows.cli", "run", str(written), "--json", str(self._record), *options]
        self.began = time.monotonic()
        environment = {name: value for name, value in (environment_of(host) | settings).items() if value}
        self.process = Process(host, command, environment, host.folder / f"run-{number}.log", host.home)

    def wait(self, timeout_s: float = 900.0) -> int:
        """Wait for its end and return its exit code."""
        code = self.process.wait(timeout_s)
        self.seconds = time.monotonic() - self.began
        return code

    def finish(self) -> dict[str, Any]:
        """Wait for its end and return its record."""
        assert self.wait() == 0, self.output
        return self.record

    @property
    def record(self) -> dict[str, Any]:
        """What `--json` wrote."""
        record: dict[str, Any] = json.loads(self._record.read_text())
        return record

    @property
    def output(self) -> str:
        """What it said."""
        return self.process.log.read_text()

    def wait_for(self, what: str, statement: str, database: str = "ledger") -> None:
        """Wait until a query finds a row while the run goes on."""
        self.wait_until(what, lambda: bool(self.site.query(database, statement)))

    def wait_until(self, what: str, holds: Any) -> None:
        """Wait until something holds while the run goes on."""
        deadline = time.monotonic() + 300
        while not holds():
            assert self.process.code is None, f"the run ended before {what}: {self.output}"
            assert time.monotonic() < deadline, f"{what} took too long: {self.output}"
            time.sleep(0.3)

    def wait_for_training(self) -> None:
        """Wait until the baseline trains and has left a checkpoint; the stages before it are finished."""
        self.wait_until("the first checkpoint", lambda: self.site.keys("store/checkpoints/"))


def environment_of(host: Host) -> dict[str, str]:
    """Return what every program on a host finds in its environment."""
    own = {
        "HOME": str(host.home),
        "PYTHONPATH": str(CHECKOUT),
        "STILLHOUSE_HOME": str(SCRATCH / "stillhouse"),
        "STILLHOUSE_PROJECT": str(host.home / "project"),
        "STILLHOUSE_BASELINES": str(host.home / "baselines"),
        "TMPDIR": str(SCRATCH),
    }
    return {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | SETTINGS | own


def _prepare(host: Host) -> None:
    """Give a host a checkout's data files, and a small disk of its own for what it writes."""
    project = host.home / "project"
    (project / ".dvc").mkdir(parents=True)
    for name in ("data.dvc", ".dvcignore", ".dvc/config"):
        shutil.copy(CHECKOUT / name, project / name)
    host.run("mount", "-t", "tmpfs", "-o", f"size={_SCRATCH_MIB}m", "tmpfs", str(SCRATCH))


def _services(folder: Path) -> dict[str, Service]:
    python, control = sys.executable, f"{SUBNET}.{HOSTS['control']}"
    return {
        "postgres": Service(
            "control",
            [*_AS_POSTGRES, str(programs() / "postgres"), "-D", str(folder / "postgres" / "data"), "-h", control]
            + ["-k", "", "-c", "fsync=off", "-c", "max_connections=200"],
            [str(programs() / "pg_isready"), "-q", "-h", "control"],
        ),
        "s3": Service("control", [python, "-m", "moto.server", "-H", control, "-p", "9001"], _answers(9001)),
        "s3-front": Service(
            "control",
            [python, "-m", "tests.hosts.s3_front", control, "9000", "9001", str(folder / "s3-mode")],
            _answers(9000),
        ),
        "prefect": Service(
            "control",
            [python, "-m", "prefect", "server", "start", "--host", control, "--port", "4200"],
            _answers(4200, "/api/ready"),
            {
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://stillhouse@control/prefect",
                "PREFECT_UI_ENABLED": "0",
            },
        ),
        "mlflow": Service(
            "control",
            [python, "-m", "mlflow", "server", "--host", control, "--port", "5000", "--workers", "1"]
            + ["--allowed-hosts", "control:5000", "--artifacts-destination", "s3://mlflow/artifacts"],
            _answers(5000, "/health"),
            {
                "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://stillhouse@control/mlflow",
                "MLFLOW_S3_ENDPOINT_URL": "http://control:9000",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        ),
        "head": _ray_node("head", ["--head", "--port=6379", "--ray-client-server-port=10001", "--num-cpus=0"], target=1),
        "worker-1": _ray_node("worker-1", ["--address=head:6379", "--num-cpus=2", "--num-gpus=1"]),
        "worker-2": _ray_node("worker-2", ["--address=head:6379", "--num-cpus=2", "--num-gpus=1"]),
        **{f"mirror-{number}": _mirror(f"gateway-{number}") for number in (1, 2)},
        **{f"gateway-{number}": _gateway(f"gateway-{number}") for number in (1, 2)},
    }


def _ray_node(host: str, options: list[str], target: int = 0) -> Service:
    command = [_RAY, "start", *options, f"--node-ip-address={SUBNET}.{HOSTS[host]}", "--block", "--disable-usage-stats"]
    command += ["--object-store-memory=104857600"]
    if target:
        command += ["--include-dashboard=false", "--temp-dir=/tmp/ray", f'--resources={{"target-cpu": {target}}}']
    return Service(host, command, [_RAY, "health-check", "--address=head:6379"] if target else ("true",))


def _mirror(host: str) -> Service:
    return Service(host, [sys.executable, "-m", "flows.cli", "store", "mirror", "--ship-seconds", "2"])


def _gateway(host: str) -> Service:
    place = SCRATCH / "stillhouse"
    command = [sys.executable, "-m", "infra.gateway", "--store", str(place / "store"), "--traffic"]
    command += [str(place / "traffic"), "--host", f"{SUBNET}.{HOSTS[host]}", "--port", "8080", "--allow-anonymous"]
    return Service(host, command, ["curl", "-sSf", f"http://{host}:8080/v2/health/live"])


def _answers(port: int, path: str = "/") -> list[str]:
    return ["curl", "-sSf", "--max-time", "5", "-o", "/dev/null", f"http://control:{port}{path}"]


_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "--chdir=/")
