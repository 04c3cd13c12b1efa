"""What one stage costs the services of a deployment: requests, transactions, rows, bytes, processor time.

A real run on the engines of production, counted at the servers, so that the processes of the stages are counted too.
`docs/scaling.md` multiplies. `BENCHMARK_SHARE=0.1` tries it out on a shortened plan.
"""

import importlib
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
from pydantic import SecretStr

from benchmarks.overheads import short_plan
from benchmarks.plan_runs import ROOT
from benchmarks.result import Figure, Findings, figure
from tasks.contracts.errors import ServiceUnavailableError
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings

_BUCKET = "stillhouse-benchmark"
_READY_WITHIN_S = 300.0
_COUNTERS = "SELECT xact_commit, tup_inserted, tup_updated FROM pg_stat_database WHERE datname = current_database()"
_REQUEST = re.compile(r'"(GET|PUT|POST|HEAD|DELETE|PATCH|MESSAGE) (\S+) HTTP')


def measure() -> Findings:
    """Run the plan cold, then cached, and count at the servers what each run asked for."""
    tests = importlib.import_module("tests.postgres_server")
    if why := tests.why_missing():
        raise ServiceUnavailableError(f"this benchmark needs a PostgreSQL server: {why}")
    home = current_settings().home
    home.mkdir(parents=True, exist_ok=True)
    postgres = tests.PostgresServer()
    with ExitStack() as stack:
        stack.callback(postgres.stop)
        databases = {name: postgres.database() for name in ("ledger", "prefect")}
        s3 = stack.enter_context(_s3(home / "s3.log"))
        prefect = stack.enter_context(_prefect(home / "prefect.log", databases["prefect"]))
        site = _Site(home, postgres, databases, s3, prefect)
        connect(current_settings().model_copy(update={"ledger_url": SecretStr(databases["ledger"])})).ledger.digests()
        figures = [*site.counted("cold"), *site.counted("cached")]
    return Findings(
        question="What does a stage cost the services of a deployment?",
        setup=(
            "`plans/digits.yaml` by `stillhouse run --no-rollout` with ledger and Prefect's server in PostgreSQL and "
            "the store in S3 (moto); MLflow embedded. Counted at the servers over the whole run and divided by the "
            "stages that it records: one that trains writes checkpoints and progress, and weighs more than these "
            "means. Transactions are commits, of Prefect's own loops too. The locks' renewals are among the "
            "ledger's."
        ),
        seeds={"plan": 0},
        figures=tuple(figures),
    )


@dataclass(frozen=True)
class _Served:
    """A server that logs every request."""

    url: str
    process: psutil.Process
    log: Path


@dataclass(frozen=True)
class _Site:
    home: Path
    postgres: Any
    databases: dict[str, str]
    s3: _Served
    prefect: _Served

    def counted(self, name: str) -> Iterator[Figure]:
        """Run, and give what the servers saw, for each stage."""
        before, begun = self._readings(), time.monotonic()
        num_stages = self._run()
        seconds = time.monotonic() - begun
        spent = self._readings()
        spent.subtract(before)
        yield figure("stages", "", [num_stages], subject=name)
        yield figure("whole run", "s", [seconds], subject=name)
        for what, amount in sorted(spent.items()):
            unit = next((unit for unit in ("ms", "bytes") if what.endswith(f", {unit}")), "")
            yield figure(f"{what.removesuffix(f', {unit}')} a stage", unit, [amount / num_stages], subject=name)

    def _run(self) -> int:
        """Call the command; return how many stages the store has records of."""
        environment = {
            "PREFECT_API_URL": f"{self.prefect.url}/api",
            "STILLHOUSE_LEDGER_URL": self.databases["ledger"],
            "STILLHOUSE_STORE_URL": f"s3://{_BUCKET}/store",
            "STILLHOUSE_S3_ENDPOINT": self.s3.url,
            "STILLHOUSE_S3_REGION": "us-east-1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "flows.cli", "run", str(short_plan()), "--no-rollout"]
        done = subprocess.run(
            command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return sum(1 for _ in self._objects("store/stages/"))

    def _readings(self) -> "Counter[str]":
        found: Counter[str] = Counter()
        for method, path in _REQUEST.findall(self.s3.log.read_text()):
            if path != "/":
                found[f"S3 {method}"] += 1
        found["S3 stored, bytes"] = sum(self._objects(""))
        for method, _ in _REQUEST.findall(self.prefect.log.read_text()):
            found["Prefect events" if method == "MESSAGE" else "Prefect API requests"] += 1
        found["processor time of Prefect's server, ms"] = round(1e3 * sum(self.prefect.process.cpu_times()[:2]))
        for name, url in self.databases.items():
            database = url.rpartition("?")[0].rpartition("/")[2]
            ((commits, inserted, updated),) = self.postgres.execute(database, _COUNTERS)
            found[f"{name}: transactions"] = int(commits)
            found[f"{name}: rows inserted"] = int(inserted)
            found[f"{name}: rows updated"] = int(updated)
        return found

    def _objects(self, prefix: str) -> Iterator[int]:
        """Give the sizes of the objects below a prefix."""
        pages = _client(self.s3.url).get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=prefix)
        for page in pages:
            yield from (int(item["Size"]) for item in page.get("Contents", []))


@contextmanager
def _s3(log: Path) -> Iterator[_Served]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}  # any will do for it
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _logged(command, f"http://127.0.0.1:{port}", log, {}) as served:
        _client(served.url).create_bucket(Bucket=_BUCKET)
        yield served


@contextmanager
def _prefect(log: Path, database: str) -> Iterator[_Served]:
    port = _free_port()
    options = ["--factory", "--host", "127.0.0.1", "--port", str(port), "--log-level", "info"]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.counted_prefect:create", *options]
    environment = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.replace("+psycopg", "+asyncpg"),
        "PREFECT_UI_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    with _logged(command, f"http://127.0.0.1:{port}", log, environment) as served:
        yield served


@contextmanager
def _logged(command: list[str], url: str, log: Path, environment: dict[str, str]) -> Iterator[_Served]:
    with log.open("w") as out:
        process = psutil.Popen(
            command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                httpx.get(url, timeout=5.0)
                break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.2)
        yield _Served(url, process, log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _client(url: str) -> Any:
    return boto3.session.Session().client("s3", endpoint_url=url, region_name="us-east-1")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
