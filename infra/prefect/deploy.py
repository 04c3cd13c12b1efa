"""Make work pools and deployments on the server (PREFECT_API_URL) equal to the files; harmless when repeated.

    python deploy.py process       workers run flows as their own processes: bare machines, compose.yaml
    python deploy.py kubernetes    workers make a job of every flow run, by pool-cpu.json and pool-gpu.json

Run it where prefect.yaml lies. CPU_IMAGE and GPU_IMAGE, where set, are the images of the jobs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_POOLS = ("cpu", "gpu")
_TYPES = ("process", "kubernetes")


def main(arguments: list[str]) -> int:
    """Create or update the pools, then deploy; return 2 for a wrong argument, 1 for a pool of another type."""
    if len(arguments) != 1 or arguments[0] not in _TYPES:
        sys.stderr.write(f"usage: deploy.py {'|'.join(_TYPES)}\n")
        return 2
    wanted = arguments[0]
    for pool in _POOLS:
        found = _type_of(pool)
        if found not in (None, wanted):
            sys.stderr.write(
                f"work pool {pool} is of type {found}, and a pool keeps its type; delete it with "
                f"`prefect work-pool delete {pool}`, or deploy as {found}\n"
            )
            return 1
        _make(pool, wanted)
    _prefect("deploy", "--all")
    return 0


def template(pool: str, image: str | None) -> dict[str, Any]:
    """Return the base job template of a Kubernetes pool, for `image` if there is one."""
    document: dict[str, Any] = json.loads((Path(__file__).parent / f"pool-{pool}.json").read_text(encoding="utf-8"))
    if image:
        document["variables"]["properties"]["image"]["default"] = image
    return document


def _type_of(pool: str) -> str | None:
    """Return the type of a pool on the server, None if there is no such pool."""
    command = ["prefect", "--no-prompt", "work-pool", "ls", "--output", "json"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    types: dict[str, str] = {one["name"]: one["type"] for one in json.loads(found.stdout)}
    return types.get(pool)


def _make(pool: str, wanted: str) -> None:
    create = ["work-pool", "create", pool, "--type", wanted, "--overwrite"]
    if wanted == "process":
        _prefect(*create)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "template.json"
        file.write_text(json.dumps(template(pool, os.environ.get(f"{pool.upper()}_IMAGE"))), encoding="utf-8")
        _prefect(*create, "--base-job-template", str(file))


def _prefect(*arguments: str) -> None:
    subprocess.run(["prefect", "--no-prompt", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
