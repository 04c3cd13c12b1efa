"""The hosts with their services, and runs of the command on them."""

import json
import os
import pwd
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.hosts.network import SUBNET, Host, Network, Process
from tests.hosts.services import AS_POSTGRES, BUCKET, CHECKOUT, HOSTS, SCRATCH, Service, environment_of, services
from tests.postgres_server import programs

_READY_WITHIN_S = 240.0
_SCRATCH_MIB = 128
_STRUCK_WITHIN_S = 900.0


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
        known = services(self.folder)
        for name in names:
            service = known[name]
            host = self.network[service.host]
            environment = environment_of(host) | dict(service.environment)
            command = [*prefix, *service.command]
            self.running[name] = Process(host, command, environment, self.folder / f"{name}.log", host.home)
        for name in names:
            self._wait_until_ready(name, known[name])

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
        control, prefixes = self.network["control"], ("store/stages/", "store/checkpoints/")
        command = (sys.executable, "-m", "tests.hosts.forget", BUCKET, *prefixes)
        control.run(*command, environment=environment_of(control))
        assert not self.keys(prefixes[0]), "records are left"

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
        self.network["control"].run(*AS_POSTGRES, str(programs() / "initdb"), *arguments)
        with (data / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {SUBNET}.0/24 trust\n")
        self.start("postgres")
        for name in ("ledger", "prefect", "mlflow"):
            self.query("postgres", f"CREATE DATABASE {name}")
        control = self.network["control"]
        control.run(sys.executable, "-m", "flows.cli", "ledger", "migrate", environment=environment_of(control))

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

    def wait(self, timeout_s: float = 1800.0) -> int:
        """Wait for its end and return its exit code."""
        code = self.process.wait(timeout_s)
        self.seconds = time.monotonic() - self.began
        return code

    def finish(self, timeout_s: float = 1800.0) -> dict[str, Any]:
        """Wait for its end and return its record."""
        assert self.wait(timeout_s) == 0, self.output
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

    def wait_until(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until something holds while the run goes on."""
        deadline = time.monotonic() + _STRUCK_WITHIN_S
        while not holds():
            assert self.process.code is None, f"the run ended before {what}: {self.output}"
            assert time.monotonic() < deadline, f"{what} took too long: {self.output}"
            time.sleep(0.3)

    def wait_for_training(self) -> None:
        """Wait until the baseline trains and has left a checkpoint; the stages before it are finished."""
        self.wait_until("the first checkpoint", lambda: self.site.keys("store/checkpoints/"))


def _prepare(host: Host) -> None:
    """Give a host a checkout's data files, and a small disk of its own for what it writes."""
    project = host.home / "project"
    (project / ".dvc").mkdir(parents=True)
    for name in ("data.dvc", ".dvcignore", ".dvc/config"):
        shutil.copy(CHECKOUT / name, project / name)
    host.run("mount", "-t", "tmpfs", "-o", f"size={_SCRATCH_MIB}m", "tmpfs", str(SCRATCH))
