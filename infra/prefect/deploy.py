"""Make a Prefect server (PREFECT_API_URL) equal to prefect.yaml and the files beside this one; harmless when repeated.

    python deploy.py process       workers run flows as their own processes: bare machines, compose.yaml
    python deploy.py kubernetes    workers make a job of every flow run, by pool-cpu.json and pool-gpu.json
    ... --prune                    remove, too, what is ours there and no longer in the files

Run it where prefect.yaml lies. CPU_IMAGE and GPU_IMAGE, where set, are the images of the jobs; CPU_RUNS and GPU_RUNS
say how many runs each pool may have at once. Schedules that are on, and automations that are off, stay so.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra.prefect.automations import automations
from infra.prefect.declared import Declared, read_declared
from infra.prefect.drift import orphans, switched_off, switched_on
from infra.prefect.server import Server, connected

_POOLS = ("cpu", "gpu")
_TYPES = ("process", "kubernetes")
_PRUNE = "--prune"


def main(arguments: list[str]) -> int:
    """Create or update all of it; return 2 for a wrong argument or file, 1 for a pool of another type."""
    types = [one for one in arguments if one != _PRUNE]
    if len(types) != 1 or types[0] not in _TYPES:
        sys.stderr.write(f"usage: deploy.py {'|'.join(_TYPES)} [{_PRUNE}]\n")
        return 2
    try:
        declared = read_declared(Path("prefect.yaml"))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with connected() as server:
        found = server.pool_types()
        for pool in _POOLS:
            if found.get(pool, types[0]) != types[0]:
                sys.stderr.write(
                    f"work pool {pool} is of type {found[pool]}, and a pool keeps its type; delete it with "
                    f"`prefect work-pool delete {pool}`, or deploy as {found[pool]}\n"
                )
                return 1
        for pool in _POOLS:
            _make(pool, types[0])
        _deploy(server, declared)
        _tidy(server, declared, prune=_PRUNE in arguments)
        _share_limits(server, declared)  # last: a deployment that is removed takes the limit along that it shares
    return 0


def _deploy(server: Server, declared: Declared) -> None:
    """Deploy, keep the switches that people have set, and put the automations."""
    before, automations_before = server.deployments(declared.tag), server.automations()
    _prefect("deploy", "--all")
    for deployment, schedule in switched_on(before, server.deployments(declared.tag)):
        server.resume(deployment, schedule)
        _say(f"schedule {schedule.slug} of {deployment.name} stays on")
    for document in automations(declared.tag):
        server.put(document)
    for automation in switched_off(automations_before, server.automations()):
        server.pause(automation)
        _say(f"automation {automation.name!r} stays off")


def _tidy(server: Server, declared: Declared, *, prune: bool) -> None:
    """Tell what the files no longer name, and remove it where that is asked for."""
    wanted = {document["name"] for document in automations(declared.tag)}
    for orphan in orphans(declared, wanted, server.deployments(declared.tag), server.automations()):
        if prune:
            server.remove(orphan)
        _say(f"{orphan.kind} {orphan.name} is in no file: {'removed' if prune else f'{_PRUNE} removes it'}")


def _share_limits(server: Server, declared: Declared) -> None:
    for deployment in server.deployments(declared.tag):
        limit = declared.limits.get(deployment.name)
        if limit is not None and deployment.limit != limit:
            server.share(deployment, limit)


def template(pool: str, image: str | None) -> dict[str, Any]:
    """Return the base job template of a Kubernetes pool, for `image` if there is one."""
    document: dict[str, Any] = json.loads((Path(__file__).parent / f"pool-{pool}.json").read_text(encoding="utf-8"))
    if image:
        document["variables"]["properties"]["image"]["default"] = image
    return document


def _make(pool: str, wanted: str) -> None:
    create = ["work-pool", "create", pool, "--type", wanted, "--overwrite"]
    if wanted == "process":
        _prefect(*create)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "template.json"
            file.write_text(json.dumps(template(pool, os.environ.get(f"{pool.upper()}_IMAGE"))), encoding="utf-8")
            _prefect(*create, "--base-job-template", str(file))
    if runs := os.environ.get(f"{pool.upper()}_RUNS"):
        _prefect("work-pool", "set-concurrency-limit", pool, runs)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _prefect(*arguments: str) -> None:
    subprocess.run(["prefect", "--no-prompt", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
