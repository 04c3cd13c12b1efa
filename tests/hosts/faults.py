"""What goes wrong on the hosts, one thing at a time, and what is seen of it."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT
from typing import Any

from tests.hosts.network import Host, parent_of
from tests.hosts.plans import FAULT_PLAN, outcome, stages
from tests.hosts.services import SCRATCH
from tests.hosts.site import Run, Site

OUTAGE_S = 60.0
_AHEAD_S = 300
_LEFT_BYTES = 64 * 1024
_FRESH, _FORK_SERVER = "-m tasks.runtime.isolation", "-m tasks.runtime.fork_server"
WORKERS = ("worker-1", "worker-2")


@dataclass(frozen=True)
class Seen:
    """What came of a run, or of two equal ones, under one fault."""

    codes: tuple[int, ...]
    seconds: float
    computed_twice: tuple[str, ...]
    """Stages of which two records were written."""
    retried: tuple[str, ...]
    """Tasks that were tried more than once."""
    same: bool
    """Whether the outcome is that of a run without faults on one machine."""
    hosts: tuple[str, ...]
    """Where the stages that made models ran."""
    note: str = ""
    """The last words of a run that did not complete."""

    @property
    def is_well(self) -> bool:
        """Whether all completed, with the right outcome, and nothing that had finished was computed again."""
        return set(self.codes) == {0} and self.same and not self.computed_twice


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong while runs go on."""

    what: str
    strike: Callable[[Site, list[Run]], None]
    hosts: tuple[str, ...] = ("flow-1",)
    """Where a run is started."""
    at_once: bool = False
    """Whether it strikes at the start, and not when the baseline trains."""
    ahead: tuple[str, ...] = ()
    """Hosts of runs whose clock is five minutes ahead."""
    dies: bool = False
    """Whether the first run is killed; its own exit code then says nothing."""


def reference(site: Site) -> dict[str, Any]:
    """Run the plan on one machine, with embedded engines and no cluster."""
    run = site.run_plan(FAULT_PLAN, "flow-2", "--no-rollout", **Site.EMBEDDED)
    return outcome(run.finish())


def try_fault(site: Site, fault: Fault, expected: dict[str, Any]) -> Seen:
    """Let a fault strike while everything is computed anew, and look at what came of it."""
    site.forget_stages()
    ((before,),) = site.query("prefect", "SELECT coalesce(max(created), 'epoch') FROM task_run")
    runs = [
        site.run_plan(FAULT_PLAN, host, "--no-rollout", **(_clock_ahead(site) if host in fault.ahead else {}))
        for host in fault.hosts
    ]
    if not fault.at_once:
        runs[-1].wait_for_training()
    fault.strike(site, runs)
    codes = [run.wait() for run in runs]
    ended = runs[1:] if fault.dies else runs
    records = [run.record for run, code in zip(runs, codes, strict=True) if code == 0]
    failed = [run for run, code in zip(runs, codes, strict=True) if code != 0 and run in ended]
    retried = site.query(
        "prefect",
        f"SELECT DISTINCT name FROM task_run WHERE created > '{before}' AND run_count > 1 ORDER BY 1",
    )
    return Seen(
        codes=tuple(codes[len(runs) - len(ended) :]),
        seconds=max(run.seconds for run in runs),
        computed_twice=_computed_twice(site),
        retried=tuple(name for (name,) in retried),
        same=bool(records) and all(outcome(record) == expected for record in records),
        hosts=tuple(stage["host"] for record in records[:1] for stage in stages(record)),
        note=" ".join(failed[0].output.split())[-400:] if failed else "",
    )


def _clock_ahead(site: Site) -> dict[str, str]:
    library = site.folder / "clock_ahead.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).with_name("clock_ahead.c")), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD_S": f"{_AHEAD_S}"}


def _computed_twice(site: Site) -> tuple[str, ...]:
    """Return the stages of which more than one record was written."""
    keys = ["/".join(key.split("/")[2:4]) for key in site.keys("store/stages/")]
    return tuple(sorted(key for key, count in Counter(keys).items() if count > 1))


def _training_host(site: Site) -> str:
    return next(name for name in WORKERS if _stage_processes(site.network[name]))


def _stage_processes(host: Host) -> list[int]:
    """Return the processes of stages: fresh interpreters, and what a fork server forked, which looks as it does."""
    servers = host.processes(_FORK_SERVER)
    return sorted([*host.processes(_FRESH), *(one for one in servers if parent_of(one) in servers)])


def _kill_stage(site: Site, runs: list[Run]) -> None:
    process = _stage_processes(site.network[_training_host(site)])[-1]
    _kill(process)


def _kill_worker(site: Site, runs: list[Run]) -> None:
    _kill(site.network[_training_host(site)].processes("ray::tasks.")[-1])


def _lose_node(site: Site, runs: list[Run]) -> None:
    name = _training_host(site)
    site.end(name, SIGKILL)
    for process in site.network[name].processes("ray"):
        _kill(process)
    runs[0].wait()
    site.start(name)


def _cut_off(site: Site, runs: list[Run]) -> None:
    name = _training_host(site)
    site.network[name].cut_off()
    time.sleep(OUTAGE_S)
    site.network[name].plug_in()
    runs[0].wait()
    if site.running[name].code is not None:  # Ray ends a node that it had given up; an init system starts it again
        site.start(name)


def _restart_prefect(site: Site, runs: list[Run]) -> None:
    site.restart("prefect")


def _restart_database(site: Site, runs: list[Run]) -> None:
    site.restart("postgres", SIGINT)


def _crash_database(site: Site, runs: list[Run]) -> None:
    site.restart("postgres", SIGQUIT)


def _refuse_s3(site: Site, runs: list[Run]) -> None:
    site.s3_answers("503")
    time.sleep(OUTAGE_S)
    site.s3_answers("well")


def _slow_s3(site: Site, runs: list[Run]) -> None:
    site.s3_answers("slow 50000")
    runs[0].wait()
    site.s3_answers("well")


def _stop_mlflow(site: Site, runs: list[Run]) -> None:
    """Take MLflow away when the run is about to need it, for as long as the outage."""
    site.end("mlflow")
    runs[0].wait_for("models were measured", "SELECT 1 FROM stage_records WHERE stage_key LIKE 'measure/%'")
    time.sleep(OUTAGE_S)
    site.start("mlflow")


def _bad_day(site: Site, runs: list[Run]) -> None:
    """One after the other, in one run."""
    for strike in (_kill_worker, _restart_database, _restart_prefect, _refuse_s3, _stop_mlflow):
        strike(site, runs)


def _fill_disk(site: Site, runs: list[Run]) -> None:
    """Leave room for names and a few bytes: where there is none at all, Python's temporary files go elsewhere."""
    disk = f"{SCRATCH}/filling"
    host = site.network[_training_host(site)]
    host.run("sh", "-c", f"dd if=/dev/zero of={disk} bs=1M 2>/dev/null; truncate --size=-{_LEFT_BYTES} {disk}")
    runs[0].wait()
    host.run("rm", disk)


def _nothing(site: Site, runs: list[Run]) -> None:
    """Two runs are enough."""


def _kill_holder(site: Site, runs: list[Run]) -> None:
    holder = "SELECT holder FROM leases WHERE name LIKE 'stage/train/%'"
    runs[1].wait_for("the training's lock was taken", holder)
    (found,) = site.query("ledger", holder)[:1]
    first = runs[0] if found[0].startswith(runs[0].host.name) else runs[1]
    first.process.end(SIGKILL)
    if first is runs[1]:
        runs.reverse()


def _kill(process: int) -> None:
    os.kill(process, SIGKILL)


FAULTS = {
    "none": Fault("nothing goes wrong", _nothing, at_once=True),
    "stage": Fault("a stage's process is killed", _kill_stage),
    "worker": Fault("a Ray worker's process is killed", _kill_worker),
    "twice": Fault("two equal runs on two hosts at once", _nothing, ("flow-1", "flow-2"), at_once=True),
    "s3-503": Fault("S3 answers 503 for 60 s", _refuse_s3),
    "postgres": Fault("PostgreSQL is restarted", _restart_database),
    "postgres-crash": Fault("PostgreSQL crashes and is started again", _crash_database),
    "mlflow": Fault("MLflow is away for 60 s when it is needed", _stop_mlflow),
    "prefect": Fault("Prefect's server is restarted", _restart_prefect),
    "bad-day": Fault("worker killed, PostgreSQL and Prefect restarted, S3 503, MLflow away, in one run", _bad_day),
    "cut-off": Fault("the worker that trains is cut off for 60 s", _cut_off),
    "node": Fault("the node that trains is lost", _lose_node),
    "holder": Fault(
        "of two equal runs, the one that holds the lock is killed", _kill_holder, ("flow-1", "flow-2"), dies=True
    ),
    "clock": Fault(
        "of two equal runs, one host's clock is 5 minutes ahead",
        _nothing,
        ("flow-1", "flow-2"),
        at_once=True,
        ahead=("flow-2",),
    ),
    "s3-slow": Fault("S3 moves 50 kB a second", _slow_s3, at_once=True),
    "disk": Fault("the disk of the worker that trains is full", _fill_disk),
}
