import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts.errors import (
    DataError,
    DiskFullError,
    OutOfMemoryError,
    RunStoppedError,
    StageFailedError,
    WorkerLostError,
)
from tasks.contracts.model import EpochRecord, ModelRef
from tasks.contracts.resources import Resources
from tasks.runtime.isolation import report_progress, stopping_with_run
from tasks.runtime.placement import LocalPlacement, run_placed

_LIMIT_S = 120.0


def run_isolated(function: Callable[..., Any], *, timeout_s: float = _LIMIT_S, **options: Any) -> Any:
    return run_placed(LocalPlacement(), function, resources=Resources(timeout_s=timeout_s), **options)


def echo(model: ModelRef, times: int) -> tuple[ModelRef, ...]:
    return (model,) * times


def threads() -> str:
    print("noise on standard output must not disturb the answer")
    return os.environ["OMP_NUM_THREADS"]


def progress(steps: int) -> int:
    for step in range(1, steps + 1):
        report_progress(EpochRecord(step=step, metrics={"loss": 1.0 / step}))
    return os.getpid()


def linger() -> None:
    report_progress(EpochRecord(step=1, metrics={"loss": 1.0}))
    time.sleep(600)


def overlap(log: str, name: str) -> None:
    for mark in ("+", "-"):
        with open(log, "a") as out:
            out.write(f"{name}{mark}\n")
        time.sleep(0.3)


def fail(kind: str) -> None:
    if kind == "data":
        raise DataError("column 'age' is missing; add it")
    if kind == "memory":
        raise MemoryError("no room")
    if kind == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/model.onnx")
    if kind == "no folder":
        tempfile.tempdir = None
        tempfile._candidate_tempdir_list = lambda: ["/proc"]  # type: ignore[attr-defined]  # nothing can be written
        tempfile.mkdtemp()
    if kind == "missing":
        Path("/no/such/model.onnx").read_bytes()
    if kind == "killed":
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(60)
    raise ZeroDivisionError("a defect")


def test_run_isolated_returns_typed_values_from_another_process() -> None:
    model = ModelRef(digest="a" * 64, format="onnx", size_bytes=3)
    assert run_isolated(echo, model=model, times=2) == (model, model)


def test_run_isolated_sets_the_number_of_threads_before_the_process_starts() -> None:
    assert run_isolated(threads, num_threads=2) == "2"


def test_run_isolated_passes_progress_on_in_order() -> None:
    seen: list[EpochRecord] = []
    pid = run_isolated(progress, steps=3, on_progress=lambda item: seen.append(EpochRecord.model_validate(item)))
    assert pid != os.getpid()
    assert [record.step for record in seen] == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("data", DataError, "column 'age' is missing"),
        ("memory", OutOfMemoryError, "no room"),
        ("disk", DiskFullError, f"{socket.gethostname()} has no room .*No space left on device: '/full/model.onnx'"),
        ("no folder", DiskFullError, "No usable temporary directory"),
        ("missing", StageFailedError, "FileNotFoundError: .*'/no/such/model.onnx'"),
        ("killed", WorkerLostError, "code -9(.|\n)*last words"),
        ("defect", StageFailedError, "ZeroDivisionError: a defect(.|\n)*Traceback"),
    ],
)
def test_run_isolated_raises_what_the_function_raised(kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_isolated(fail, kind=kind)


def test_run_isolated_kills_the_process_when_time_is_up() -> None:
    with pytest.raises(WorkerLostError, match="limit of 3 s"):
        run_isolated(fail, timeout_s=3.0, kind="hang")


def test_a_call_that_measures_runs_alone(tmp_path: Path) -> None:
    placement = LocalPlacement()
    log = tmp_path / "log"
    calls = [None, "cpu", None]

    def stage(target: str | None) -> None:
        run_placed(placement, overlap, target=target, log=str(log), name=target or "other")

    threads_of_tasks = [threading.Thread(target=stage, args=(target,)) for target in calls]
    for thread in threads_of_tasks:
        thread.start()
    for thread in threads_of_tasks:
        thread.join(_LIMIT_S)

    seen = log.read_text().split()
    begin = seen.index("cpu+")
    assert seen[begin + 1] == "cpu-", seen  # nothing began or ended in between


def test_stages_are_killed_and_none_is_begun_when_a_signal_ends_the_run() -> None:
    outcomes: list[object] = []
    begun = threading.Event()

    def stage() -> None:
        try:
            outcomes.append(run_isolated(linger, on_progress=lambda _: begun.set()))
        except RunStoppedError as error:
            outcomes.append(error)

    def stopped_run() -> None:
        with stopping_with_run():
            thread.start()
            assert begun.wait(60)
            raise KeyboardInterrupt

    thread = threading.Thread(target=stage)
    with pytest.raises(KeyboardInterrupt):
        stopped_run()
    thread.join(30)

    assert [str(outcome) for outcome in outcomes] == [f"{__name__}:linger was ended because its run was told to stop"]
    with pytest.raises(RunStoppedError, match="not begun"):
        run_isolated(threads)
    with stopping_with_run():  # the next run
        assert run_isolated(threads) == "1"


def test_stages_go_on_when_an_error_ends_the_run() -> None:
    with pytest.raises(DataError), stopping_with_run():
        raise DataError("no rows")
    assert run_isolated(threads) == "1"


def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from tasks.runtime.placement import LocalPlacement, run_placed\n"
        "import orphan\n"
        "run_placed(LocalPlacement(), orphan.linger, path=sys.argv[2])\n"
    )
    (tmp_path / "orphan.py").write_text(
        "import os, time\ndef linger(path: str) -> None:\n"
        "    open(path + '.part', 'w').write(str(os.getpid())); os.replace(path + '.part', path); time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(pid_file)], env=environment)
    _poll(pid_file.exists)
    child = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    _poll(lambda: not _is_running(child))


def _is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _poll(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the condition did not come true within a minute"
        time.sleep(0.05)
