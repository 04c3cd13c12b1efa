import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts.errors import DataError, RunStoppedError, WorkerLostError
from tasks.contracts.model import EpochRecord
from tasks.contracts.resources import Resources
from tasks.runtime.isolation import report_progress, stopping_with_run
from tasks.runtime.placement import LocalPlacement, run_placed
from tasks.runtime.warm_processes import WarmProcesses

LIGHT = ("numpy", "tasks.runtime.isolation")


def family() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def surroundings() -> dict[str, str]:
    return {
        "threads": os.environ["OMP_NUM_THREADS"],
        "here": os.environ.get("SAID_LATER", ""),
        "to children": os.environ.get("_SAID_TO_CHILDREN", ""),
        "cwd": os.getcwd(),
    }


def draw() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def fail(kind: str) -> None:
    if kind == "data":
        raise DataError("column 'age' is missing; add it")
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def linger() -> None:
    report_progress(EpochRecord(step=1, metrics={"loss": 1.0}))
    time.sleep(600)


def train_and_export() -> str:
    import torch

    from tasks.contracts.model import Architecture
    from tasks.models.architecture import Network
    from tasks.models.onnx_export import to_onnx

    kwargs = {"width": 8, "blocks": [1], "input_shape": [1, 8, 8], "num_outputs": 10}
    network = Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs), seed=0)
    rows = torch.from_numpy(np.random.default_rng(0).random((64, 1, 8, 8), np.float32))
    optimizer = torch.optim.AdamW(network.module.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        network.module(rows).logsumexp(1).square().mean().backward()
        optimizer.step()
    network.module.eval()
    exported = to_onnx(network, (1, 8, 8), "float32")
    return hashlib.sha256(network.to_bytes() + exported).hexdigest()


def warmed(imports: tuple[str, ...] = LIGHT) -> LocalPlacement:
    """A placement whose fork server is up; no fixture, since pytest says the phase in the environment."""
    warm = WarmProcesses(imports)
    placement = LocalPlacement(warm=warm)
    run_placed(placement, family)
    poll(warm.is_ready)
    return placement


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nobody_waits_for_the_server() -> None:
    placement = LocalPlacement(warm=WarmProcesses(LIGHT))
    _, parent = run_placed(placement, family)
    assert parent == os.getpid(), "a fresh interpreter, since the server imports yet"


def test_every_call_has_a_process_of_its_own_that_the_server_forked() -> None:
    placement = warmed()
    (first, server), (second, again) = (run_placed(placement, family) for _ in range(2))
    assert len({first, second, server, os.getpid()}) == 4
    assert server == again


def test_a_call_that_measures_inherits_nothing() -> None:
    placement = warmed()
    _, parent = run_placed(placement, family, target="cpu")
    assert parent == os.getpid()


def test_a_forked_process_finds_the_environment_of_a_fresh_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    placement = warmed()
    assert run_placed(placement, surroundings, num_threads=1) == run_placed(
        LocalPlacement(), surroundings, num_threads=1
    )
    _, server = run_placed(placement, family)
    assert server != os.getpid()
    monkeypatch.setenv("_SAID_TO_CHILDREN", "yes")
    assert run_placed(placement, family)[1] == server, "no library reads it when it is loaded"
    assert run_placed(placement, surroundings)["to children"] == "yes"
    monkeypatch.setenv("SAID_LATER", "yes")
    assert run_placed(placement, surroundings)["here"] == "yes"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert run_placed(placement, surroundings)["cwd"] == str(tmp_path)
    assert run_placed(placement, surroundings, num_threads=2)["threads"] == "2"


def test_forked_processes_draw_differently() -> None:
    placement = warmed()
    draws = [run_placed(placement, draw) for _ in range(3)]
    assert len({number for pair in draws for number in pair}) == 6


def test_a_forked_process_that_fails_or_is_killed_takes_nothing_along() -> None:
    placement = warmed()
    _, server = run_placed(placement, family)
    with pytest.raises(DataError, match="column 'age' is missing"):
        run_placed(placement, fail, kind="data")
    with pytest.raises(WorkerLostError, match=r"code -9(.|\n)*last words"):
        run_placed(placement, fail, kind="killed")
    with pytest.raises(WorkerLostError, match="limit of 1 s"):
        run_placed(placement, linger, resources=Resources(timeout_s=1.0))
    assert run_placed(placement, family)[1] == server


def test_calls_go_on_with_fresh_interpreters_when_the_server_is_killed() -> None:
    placement = warmed()
    _, server = run_placed(placement, family)
    assert server != os.getpid()
    os.kill(server, signal.SIGKILL)
    poll(lambda: not is_running(server))
    assert run_placed(placement, family)[1] == os.getpid()


def test_forked_processes_are_killed_when_a_signal_ends_the_run() -> None:
    placement = warmed()
    outcomes: list[object] = []
    begun = threading.Event()

    def stage() -> None:
        try:
            outcomes.append(run_placed(placement, linger, on_progress=lambda _: begun.set()))
        except RunStoppedError as error:
            outcomes.append(error)

    thread = threading.Thread(target=stage)

    def stopped_run() -> None:
        with stopping_with_run():
            thread.start()
            assert begun.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_run()
    thread.join(30)
    assert [type(outcome) for outcome in outcomes] == [RunStoppedError]
    with stopping_with_run():
        pass  # the next run may start stages again


def test_server_and_children_end_when_the_flow_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    (tmp_path / "orphan.py").write_text(
        "import os, time\n"
        "def linger(path: str) -> None:\n"
        "    open(path + '.part', 'w').write(f'{os.getpid()} {os.getppid()}'); os.replace(path + '.part', path)\n"
        "    time.sleep(600)\n"
    )
    script = (
        "import sys, time, test_warm_processes as own, orphan\n"
        "own.run_placed(own.warmed(), orphan.linger, path=sys.argv[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    flow = subprocess.Popen([sys.executable, "-c", script, str(pids)], env=environment)
    poll(pids.exists)
    child, server = map(int, pids.read_text().split())
    assert server != flow.pid
    flow.kill()
    flow.wait()
    poll(lambda: not is_running(child) and not is_running(server))


@pytest.mark.slow
def test_a_forked_process_computes_the_same_bytes_as_a_fresh_one() -> None:
    from tasks.runtime.fork_server import IMPORTS

    placement = warmed(IMPORTS)
    _, parent = run_placed(placement, family)
    assert parent != os.getpid()
    digests: set[Any] = {run_placed(one, train_and_export) for one in (placement, LocalPlacement(), placement)}
    assert len(digests) == 1
