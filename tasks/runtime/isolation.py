"""Run a function in a process of its own: killable, with its own memory, threads and random state.

Prefect cannot interrupt a submitted thread that is inside native code, and two trainings in one
process share torch's global state. So every stage's work runs here. Nothing is pickled: arguments
and results are JSON of pydantic-typed values, and progress comes back line by line.

The child ends when its parent does, however the parent dies: its standard input reaches end-of-file.
A parent that is asked to end (SIGTERM, Ctrl-C) need not wait for it either: see `stopping_with_run`.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import typing
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NoReturn, TypeVar

from pydantic import TypeAdapter

from tasks.contracts import errors
from tasks.contracts.errors import (
    OutOfMemoryError,
    RunStoppedError,
    StageFailedError,
    StillhouseError,
    WorkerLostError,
)
from tasks.contracts.value import Value

R = TypeVar("R")

_CHANNEL = "STILLHOUSE_STAGE_CHANNEL"
_SLOTS = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
"""Stage processes of this process that run at once: one per CPU."""
_running: set["subprocess.Popen[str]"] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()


def run_isolated(
    function: Callable[..., R],
    *,
    timeout_s: float,
    num_threads: int = 1,
    exclusive: bool = False,
    on_progress: Callable[[Any], None] = lambda _: None,
    **arguments: Any,
) -> R:
    """Call a module-level, fully annotated function in a fresh process and return what it returns.

    Args:
        function: Its annotations say how arguments and result travel as JSON.
        timeout_s: Wall time after which the process is killed.
        num_threads: Threads of OpenMP, MKL and torch in the process; it takes as many slots.
        exclusive: Wait until no other stage process of this process runs, and keep others out.
        on_progress: Called with each value that the function gave to `report_progress`.
        **arguments: Passed by name.

    Raises:
        StillhouseError: of the class that the function raised.
        RunStoppedError: the run was told to stop.
        OutOfMemoryError: it ran out of memory.
        WorkerLostError: the process was killed or timed out.
        StageFailedError: it raised anything else; the message ends with the traceback.
    """
    hints = typing.get_type_hints(function)
    request = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "arguments": {
            name: TypeAdapter(hints[name]).dump_python(value, mode="json") for name, value in arguments.items()
        },
        "num_threads": num_threads,  # set before the child starts, since OpenMP reads it once
    }
    slots = _SLOTS._initial_value if exclusive else min(num_threads, _SLOTS._initial_value)  # type: ignore[attr-defined]
    with _taken(slots):
        outcome = _Child(request).run(timeout_s, on_progress)
    return typing.cast(R, TypeAdapter(hints["return"]).validate_python(outcome))


@contextmanager
def stopping_with_run() -> Iterator[None]:
    """Kill the stage processes, and start no more, when a signal ends the block.

    Prefect turns SIGTERM into an exception in the main thread, and then waits for the threads of its tasks, which
    wait for their stages: minutes or hours, where an orchestrator grants seconds. Stages have checkpoints.
    """
    _stopping.clear()
    try:
        yield
    except Exception:
        raise
    except BaseException:  # a signal
        with _running_lock:
            _stopping.set()
            for process in _running:
                process.kill()
        raise


def report_progress(value: Value) -> None:
    """Send a value from inside an isolated function to its caller; does nothing elsewhere."""
    if _sender is not None:
        _sender({"progress": value.model_dump(mode="json")})


class _taken:  # noqa: N801 - reads as a phrase: with _taken(2)
    """Hold several slots; acquired under one lock, so that two wide stages cannot each hold half."""

    _order = threading.Lock()

    def __init__(self, slots: int) -> None:
        self._slots = slots

    def __enter__(self) -> None:
        with self._order:
            for _ in range(self._slots):
                _SLOTS.acquire()

    def __exit__(self, *exc_info: object) -> None:
        for _ in range(self._slots):
            _SLOTS.release()


class _Child:
    """One stage process, seen from its parent."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._name = str(request["function"])

    def run(self, timeout_s: float, on_progress: Callable[[Any], None]) -> Any:
        process, read_end = self._start()
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            killer = threading.Timer(timeout_s, process.kill)
            killer.start()
            started = time.monotonic()
            tail = _TailReader(process.stdout)
            try:
                process.stdin.write(json.dumps(self._request) + "\n")
                process.stdin.flush()
                with os.fdopen(read_end, encoding="utf-8") as channel:
                    message = self._last_message(channel, on_progress)
            except BrokenPipeError:
                message = None
            except BaseException:
                process.kill()
                raise
            finally:
                killer.cancel()
                process.stdin.close()
                with _running_lock:
                    _running.discard(process)
            code = process.wait()
        if message is None and _stopping.is_set():
            raise RunStoppedError(f"{self._name} was ended because its run was told to stop")
        if message is None:
            self._lost(code, time.monotonic() - started, timeout_s, tail.text())
        if "error" in message:
            _raise_again(self._name, message["error"])
        return message["result"]

    def _start(self) -> "tuple[subprocess.Popen[str], int]":
        """Start the process; return it and the end of the pipe that its answer comes from."""
        threads = str(self._request["num_threads"])
        with _running_lock:  # so that a run that stops either sees the process or keeps it from starting
            if _stopping.is_set():
                raise RunStoppedError(f"{self._name} was not begun because its run was told to stop")
            read_end, write_end = os.pipe()
            environment = os.environ | {
                _CHANNEL: str(write_end),
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "OPENBLAS_NUM_THREADS": threads,
            }
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                env=environment,
                text=True,
                errors="replace",
            )
            os.close(write_end)
            _running.add(process)
        return process, read_end

    @staticmethod
    def _last_message(channel: IO[str], on_progress: Callable[[Any], None]) -> dict[str, Any] | None:
        for line in channel:
            message: dict[str, Any] = json.loads(line)
            if "progress" not in message:
                return message
            on_progress(message["progress"])
        return None

    def _lost(self, code: int, seconds: float, timeout_s: float, output: str) -> NoReturn:
        if seconds >= timeout_s:
            raise WorkerLostError(
                f"{self._name} was killed after its limit of {timeout_s:.0f} s; raise resources.timeout_s of the stage"
            )
        raise WorkerLostError(
            f"the process of {self._name} ended with code {code} and no result after {seconds:.0f} s "
            f"(-9 is often the kernel's out-of-memory killer). Its last output:\n{output or '(none)'}"
        )


class _TailReader:
    """Drains a child's output in the background and keeps its last lines for error messages."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: deque[str] = deque(maxlen=20)
        self._thread = threading.Thread(target=lambda: self._lines.extend(stream), daemon=True)
        self._thread.start()

    def text(self) -> str:
        self._thread.join(timeout=5)
        return "".join(self._lines).strip()


def _raise_again(name: str, error: dict[str, str]) -> NoReturn:
    kind = getattr(errors, error["class"], None)
    if inspect.isclass(kind) and issubclass(kind, StillhouseError):
        raise kind(error["message"])
    raise StageFailedError(f"{name} failed with {error['class']}: {error['message']}\n{error['traceback']}")


_sender: Callable[[dict[str, Any]], None] | None = None


def _serve_one_call() -> None:
    """Be the child: read one request from standard input, run it, answer on the channel."""
    global _sender
    channel = os.fdopen(int(os.environ.pop(_CHANNEL)), "w", encoding="utf-8")

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    _sender = send
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    send(_answer(request))


def _end_with_parent() -> None:
    # the parent never writes again: end-of-file means that it closed the pipe or died
    sys.stdin.read()
    os._exit(1)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        module, _, name = request["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(function)
        arguments = {
            name: TypeAdapter(hints[name]).validate_python(value) for name, value in request["arguments"].items()
        }
        result = function(**arguments)
        return {"result": TypeAdapter(hints["return"]).dump_python(result, mode="json")}
    except Exception as error:  # noqa: BLE001 - the parent raises it again, or names it with its traceback
        kind = OutOfMemoryError if _ran_out_of_memory(error) else type(error)
        return {"error": {"class": kind.__name__, "message": str(error), "traceback": traceback.format_exc()}}


def _ran_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


if __name__ == "__main__":
    # run as the importable module, not as __main__, so that `report_progress` sees the same channel
    importlib.import_module("tasks.runtime.isolation")._serve_one_call()
