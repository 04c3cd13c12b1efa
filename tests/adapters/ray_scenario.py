"""A Ray cluster of three nodes on this machine, and what stages do on it; `seen.json`, in the folder that is given.

Run in a network namespace of its own, since Ray listens on every interface. Its functions are the stages' work, so
the workers import this file too.
"""

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.contracts.errors import RunStoppedError, StillhouseError
from tasks.contracts.model import EpochRecord
from tasks.contracts.resources import Resources
from tasks.runtime.isolation import report_progress, stopping_with_run
from tasks.runtime.placement import run_placed


def where() -> dict[str, str]:
    for step in (1, 2, 3):
        report_progress(EpochRecord(step=step, metrics={"loss": 1.0 / step}))
    return {
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "node": _raylet(),
        "threads": os.environ["OMP_NUM_THREADS"],
    }


def busy(log: str) -> None:
    for mark in ("begin", "end"):
        with open(log, "a") as out:
            out.write(f"{mark}\n")
        time.sleep(0.5)


def meet(log: str) -> bool:
    """Return whether another process ran at the same time."""
    with open(log, "a") as out:
        out.write("here\n")
    deadline = time.monotonic() + 100
    while len(Path(log).read_text().split()) < 2:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def sum_up() -> dict[str, float]:
    """Add the numbers of two processes up; each runs on its own reservation."""
    import torch

    from tasks.techniques.crew import joined_crew

    with joined_crew(2) as crew:
        numbers = torch.tensor([crew.rank + 1.0])
        crew.add_up([numbers])
    return {"sum": numbers.item(), "size": float(crew.size)}


def linger(pid_file: str) -> None:
    part = Path(f"{pid_file}.part")
    part.write_text(f"{os.getpid()} {_ray_worker()}")
    part.replace(pid_file)
    time.sleep(600)


def want_room(full: str) -> str:
    """Fail on the first node that it is placed on, and on that one ever after, as one with a full disk does."""
    Path(full).mkdir(exist_ok=True)
    here = Path(full) / _raylet()
    if here.exists() or not any(Path(full).iterdir()):
        here.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return here.name


def want_room_together(full: str) -> float:
    """Do as `want_room` in each of two processes, and add up how many they are."""
    want_room(full)
    return sum_up()["size"]


def fail() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raylet() -> str:
    """Return the process id of this node's raylet, the parent of the worker that started this process."""
    return _parent(_ray_worker())


def _ray_worker() -> str:
    """Return the process id of the worker; a fork server may lie between."""
    process = str(os.getppid())
    while not Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::"):
        process = _parent(process)
    return process


def _parent(process: str) -> str:
    status = Path(f"/proc/{process}/status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    from tasks.adapters.ray_placement import RayPlacement
    from tasks.runtime.services import connect
    from tasks.runtime.settings import current_settings

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    gpu_node = cluster.add_node(num_cpus=2, num_gpus=1)
    cluster.add_node(num_cpus=0, resources={"target-cpu": 1})
    os.environ["STILLHOUSE_RAY_ADDRESS"] = cluster.address
    cluster.wait_for_nodes()
    placement = connect().placement
    seen: dict[str, Any] = {}

    def attempt(name: str, work: Callable[..., Any], **options: Any) -> None:
        try:
            seen[name] = run_placed(options.pop("placement", placement), work, **options)
        except StillhouseError as error:
            seen[name] = f"{type(error).__name__}: {error}"

    steps: list[int] = []
    attempt("cpu", where, on_progress=lambda record: steps.append(record["step"]), num_threads=2)
    seen["progress"] = steps
    attempt("gpu", where, resources=Resources(num_gpus=1))
    attempt("measured", where, target="cpu")
    for name, share, work in (("whole GPUs", 1.0, busy), ("half GPUs", 0.5, meet)):
        log = folder / name
        together = [
            threading.Thread(
                target=attempt,
                args=(f"{name} {number}", work),
                kwargs={"resources": Resources(num_gpus=share), "log": str(log)},
            )
            for number in range(2)
        ]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
    seen["whole GPUs"] = (folder / "whole GPUs").read_text().split()
    attempt("crew", sum_up, resources=Resources(num_workers=2))
    attempt("smaller crew", sum_up, resources=Resources(num_workers=2, num_gpus=1))
    spare = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    for name, work, resources in (
        ("full", want_room, Resources()),
        ("full for a crew", want_room_together, Resources(num_workers=2)),
        ("full where the only GPU is", want_room, Resources(num_gpus=1)),
    ):
        for number in (1, 2):
            attempt(f"{name}, try {number}", work, resources=resources, full=str(folder / name))
        seen[name] = [place.name for place in (folder / name).iterdir()]
    cluster.remove_node(spare)
    attempt("killed stage", fail)
    attempt("killed worker", linger, **_killing(folder / "worker", parent=True))
    settings = current_settings()
    impatient = RayPlacement(settings.model_copy(update={"placement_timeout_s": 5.0}))
    attempt("nowhere", where, placement=impatient, resources=Resources(custom={"moonlight": 1}))
    elsewhere = RayPlacement(settings.model_copy(update={"store": folder / "elsewhere"}))
    attempt("another store", where, placement=elsewhere)
    seen["stopped"] = _stopped(placement, folder / "stopped")
    thread = threading.Thread(target=attempt, args=("lost node", linger), kwargs={"pid_file": str(folder / "lost")})
    thread.start()
    _pid(folder / "lost")
    cluster.remove_node(gpu_node, allow_graceful=False)
    thread.join()
    (folder / "seen.json").write_text(json.dumps(seen))  # Ray prints to standard output too


def _killing(pid_file: Path, *, parent: bool) -> dict[str, str]:
    """Kill the process that writes the file, or its parent, as soon as it did."""

    def kill() -> None:
        os.kill(_pid(pid_file)[1 if parent else 0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    return {"pid_file": str(pid_file)}


def _stopped(placement: Any, pid_file: Path) -> dict[str, Any]:
    outcome: list[str] = []

    def stage() -> None:
        try:
            run_placed(placement, linger, pid_file=str(pid_file))
        except RunStoppedError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=stage)
    try:
        with stopping_with_run():
            thread.start()
            process, _ = _pid(pid_file)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        thread.join()
    with stopping_with_run():
        pass  # the next run may start stages again
    return {"outcome": outcome, "ended": _ended(process)}


def _pid(pid_file: Path) -> tuple[int, int]:
    deadline = time.monotonic() + 120
    while not pid_file.exists():
        assert time.monotonic() < deadline, f"{pid_file} was not written"
        time.sleep(0.05)
    process, parent = pid_file.read_text().split()
    return int(process), int(parent)


def _ended(process: int) -> bool:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    # as the importable module, which the workers import too
    import ray_scenario

    ray_scenario.main(Path(sys.argv[1]))
