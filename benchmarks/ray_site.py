"""A Ray cluster on this machine and stages on it: `python -m benchmarks.ray_site WHAT OPTIONS.json OUT.json`.

Ray listens on every interface, so this runs in a network namespace of its own, which has loopback alone; making one
takes the right to. The flow, its Prefect server and the workers are all within.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plan_runs import ROOT
from benchmarks.waiting import Waited, wait
from tasks.contracts.errors import UserError
from tasks.contracts.resources import Resources
from tasks.runtime.placement import LocalPlacement, Placement, run_placed
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings
from tasks.runtime.warm_processes import WarmProcesses

SLOTS = 8
"""What the cluster offers of the resource `slot`; a stage that takes n of them leaves room for 8 / n at once."""
_READY_WITHIN_S = 120.0
_SETTLES_S = 5.0
"""Between two runs: the embedded Prefect server still writes the events of the one before, and answers 503 meanwhile.

Prefect's client then waits for two seconds before it asks again: time of SQLite, not of the workers.
"""


def on_ray(what: str, options: dict[str, Any]) -> Any:
    """Do something on a cluster of its own, and return what it found.

    Args:
        what: `starts` or `scaling`.
        options: of it, by name.

    Raises:
        UserError: there is no right to make a network namespace here.
    """
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        raise UserError("Ray listens on every interface; run this where `unshare --net` works, as root does")
    home = current_settings().home / "ray"
    home.mkdir(parents=True, exist_ok=True)
    given, found = home / f"{what}-options.json", home / f"{what}.json"
    given.write_text(json.dumps(options), encoding="utf-8")
    own = [sys.executable, "-m", "benchmarks.ray_site", what, str(given), str(found)]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "prefect"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "STILLHOUSE_EXECUTION": "ray",
        "STILLHOUSE_HOME": str(home),
    }
    environment.pop("STILLHOUSE_STORE", None)
    script = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *own]
    done = subprocess.run(script, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(found.read_text(encoding="utf-8"))


def main(what: str, given: Path, found: Path) -> None:
    """Start the cluster, do what is asked, and write what was found."""
    from ray.cluster_utils import Cluster

    from tasks.runtime.embedded import use_embedded_engines

    use_embedded_engines()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=SLOTS, num_gpus=1, resources={"slot": SLOTS})
    os.environ["STILLHOUSE_RAY_ADDRESS"] = cluster.address
    current_settings.cache_clear()
    cluster.wait_for_nodes()
    work: dict[str, Callable[..., Any]] = {"starts": time_starts, "scaling": scale}
    answer = work[what](**json.loads(given.read_text(encoding="utf-8")))
    found.write_text(json.dumps(answer), encoding="utf-8")  # Ray prints to standard output too


def time_starts(repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds from the call to the first line of the stage's function, by each way in turns."""
    warm = WarmProcesses()
    ways: dict[str, tuple[Placement, Resources]] = {
        # first, since connecting changes the environment, and a fork server belongs to one
        "Ray, a CPU": (connect().placement, Resources()),
        "Ray, a logical GPU": (connect().placement, Resources(num_gpus=1)),
        "fresh interpreter": (LocalPlacement(), Resources()),
        "forked": (LocalPlacement(warm=warm), Resources()),
    }
    for placement, resources in ways.values():
        _start_ms(placement, resources)
    deadline = time.monotonic() + _READY_WITHIN_S
    while not warm.is_ready():
        assert time.monotonic() < deadline, "the fork server is not up"
        time.sleep(0.1)
    milliseconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (placement, resources) in ways.items():
            milliseconds[way].append(_start_ms(placement, resources))
    return milliseconds


def _start_ms(placement: Placement, resources: Resources) -> float:
    called = time.monotonic()
    waited = run_placed(placement, wait, resources=resources, number=0, seconds=0.0)
    return (waited.begun - called) * 1e3


def scale(num_stages: int, runs: list[tuple[int, float]]) -> list[dict[str, float]]:
    """Run as many stages on each number of workers with stages of that many seconds, and again from the cache.

    Each run begins on a Prefect server that has nothing left to do.

    Returns:
        The seconds of both, for each of `runs`.
    """
    from tasks.runtime.prefect_server import start_prefect_server

    start_prefect_server(current_settings())
    from benchmarks.waiting_flow import run_candidates  # prefect reads its settings when it is imported

    found = []
    # the first series pays what only a worker's first stage costs
    for series, (number, seconds) in enumerate([(SLOTS, 0.0), *runs]):
        time.sleep(_SETTLES_S)
        begun = time.monotonic()
        waited: list[Waited] = run_candidates(series, num_stages, seconds, number)
        cold_s = time.monotonic() - begun
        first_s = min(one.begun for one in waited) - begun
        time.sleep(_SETTLES_S)
        begun = time.monotonic()
        run_candidates(series, num_stages, seconds, number)
        found.append({"cold": cold_s, "cached": time.monotonic() - begun, "until the first": first_s})
    return found[1:]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
