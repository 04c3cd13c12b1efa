"""Run a function in a process of its own: killable, with its own memory, threads and random state.

Prefect cannot interrupt a submitted thread that is inside native code, and two trainings in one
process share torch's global state. So every stage's work runs here. Nothing is pickled: arguments
and results are JSON of pydantic-typed values, and progress comes back line by line.

The child ends when its parent does, however the parent dies: its standard input reaches end-of-file.
A parent that is asked to end (SIGTERM, Ctrl-C) need not wait for it either: see `stopping_with_run`.
Where the process runs is up to `tasks.runtime.placement`; this module starts it on this machine, as a fresh
interpreter or forked from one that has imported what stages need: see `tasks.runtime.warm_processes`.
"""

import importlib
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NoReturn, Self, TypeVar

from pydantic import TypeAdapter

from tasks.contracts import errors
from tasks.contracts.errors import (
    DiskFullError,
    OutOfMemoryError,
    RunStoppedError,
    StageFailedError,
    StillhouseError,
    WorkerLostError,
    ran_out_of_disk,
    ran_out_of_memory,
)
from tasks.contracts.resources import NOTHING_SPECIAL, Resources
from tasks.contracts.value import Slug, Value
from tasks.runtime.settings import environment_of_stages
from tasks.runtime.warm_processes import ForkedProcess, WarmProcesses

R = TypeVar("R")

Message = dict[str, Any]
"""How a call ended: `{"result": ...}` or `{"error": {"class", "message", "traceback"}}`, as JSON; in both, `usage`."""

_CHANNEL = "STILLHOUSE_STAGE_CHANNEL"
_Process = subprocess.Popen[str] | ForkedProcess
_running: set[_Process] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()


class StageCall(Value):
    """A function to be called in a process of its own, wherever that is, and what the call needs there."""

    function: str
    """As `module:name`."""
    arguments: dict[str, Any]
    """By name, as JSON; the function's annotations say what they are."""
    num_threads: int = 1
    """Threads of OpenMP, MKL and torch in the process."""
    target: Slug | None = None
    """The kind of machine that the call measures, if it measures; it then runs alone on such a one."""
    resources: Resources = NOTHING_SPECIAL
    modules: tuple[str, ...] = ()
    """What the call executes, as the stage's cache key names it."""

    def to_json(self) -> str:
        """Write the call on one line."""
        return json.dumps(self.model_dump())

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        return cls.model_validate(json.loads(line))


def make_call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    resources: Resources = NOTHING_SPECIAL,
    num_threads: int = 1,
    target: Slug | None = None,
    modules: Iterable[str] = (),
) -> StageCall:
    """Write down the call of a module-level, fully annotated function; its annotations say how values become JSON."""
    hints = typing.get_type_hints(function)
    return StageCall(
        function=f"{function.__module__}:{function.__qualname__}",
        arguments={name: TypeAdapter(hints[name]).dump_python(value, mode="json") for name, value in arguments.items()},
        num_threads=num_threads,
        target=target,
        resources=resources,
        modules=tuple(sorted({function.__module__, *modules})),
    )


def outcome_of(function: Callable[..., R], message: Message) -> R:
    """Return what the call of `function` returned, or raise what it raised.

    Raises:
        StillhouseError: of the class that the function raised.
        StageFailedError: it raised anything else; the message ends with the traceback.
    """
    if "error" in message:
        _raise_again(f"{function.__module__}:{function.__qualname__}", message["error"])
    result = TypeAdapter(typing.get_type_hints(function)["return"]).validate_python(message["result"])
    return typing.cast(R, result)


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


def require_run_goes_on(name: str) -> None:
    """Refuse to go on with `name` once the run was told to stop.

    Raises:
        RunStoppedError: it was.
    """
    if _stopping.is_set():
        raise RunStoppedError(f"{name} was ended because its run was told to stop")


def report_progress(value: Value) -> None:
    """Send a value from inside an isolated function to its caller; does nothing elsewhere."""
    if _sender is not None:
        _sender({"progress": value.model_dump(mode="json")})


class StageProcess:
    """One stage process on this machine, seen from its parent."""

    def __init__(
        self, call: StageCall, environment: Mapping[str, str] | None = None, warm: WarmProcesses | None = None
    ) -> None:
        """Prepare the call.

        Args:
            call: what is called.
            environment: adds to what the process inherits.
            warm: where a process may come from; else, and where none is to be had, it is a fresh interpreter.
        """
        self._call = call
        self._name = call.function
        self._environment = environment or {}
        self._warm = warm
        self._process: _Process | None = None
        self._killed = False

    def kill(self) -> None:
        """End the process, or keep it from starting."""
        with _running_lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def run(self, on_progress: Callable[[Any], None] = lambda _: None) -> Message:
        """Make the call and return how it ended.

        Args:
            on_progress: Called with each value that the function gave to `report_progress`, as JSON.

        Raises:
            RunStoppedError: the run was told to stop.
            WorkerLostError: the process was killed, also after `call.resources.timeout_s`.
        """
        from tasks.runtime.usage import sampled  # what starts no stages need not have psutil

        timeout_s = self._call.resources.timeout_s
        process, read_end = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            killer = threading.Timer(timeout_s, process.kill)
            killer.start()
            started = time.monotonic()
            tail = _TailReader(process.stdout)
            try:
                process.stdin.write(self._call.to_json() + "\n")
                process.stdin.flush()
                # what measures a model runs alone on its machine
                with (
                    os.fdopen(read_end, encoding="utf-8") as channel,
                    sampled(process.pid, wanted=self._call.target is None) as usage,
                ):
                    message = self._last_message(channel, on_progress)
                    if message is not None:
                        message["usage"] = [sample.model_dump() for sample in usage()]
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
        if message is None:
            require_run_goes_on(self._name)
            self._lost(code, time.monotonic() - started, timeout_s, tail.text())
        return message

    def _start(self) -> tuple[_Process, int]:
        """Start the process; return it and the end of the pipe that its answer comes from."""
        threads = str(self._call.num_threads)  # in the environment, since OpenMP reads it once
        base = environment_of_stages() | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }
        with _running_lock:  # so that a run that stops either sees the process or keeps it from starting
            if _stopping.is_set():
                raise RunStoppedError(f"{self._name} was not begun because its run was told to stop")
            if self._killed:
                raise WorkerLostError(f"{self._name} was not begun because it was given up")
            read_end, write_end = os.pipe()
            process: _Process | None = None
            if self._warm is not None:
                process = self._warm.start(base, self._environment, write_end)
            if process is None:
                process = _start_interpreter({**base, **self._environment}, write_end)
            os.close(write_end)
            _running.add(process)
            self._process = process
        return process, read_end

    @staticmethod
    def _last_message(channel: IO[str], on_progress: Callable[[Any], None]) -> Message | None:
        for line in channel:
            message: Message = json.loads(line)
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


def _start_interpreter(environment: Mapping[str, str], channel: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(channel,),
        env={**environment, _CHANNEL: str(channel)},
        text=True,
        errors="replace",
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


def serve_one_call(descriptor: int) -> None:
    """Be the child: read one request from standard input, run it, answer on the channel `descriptor`."""
    global _sender
    channel = os.fdopen(descriptor, "w", encoding="utf-8")

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    _sender = send
    call = StageCall.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    send(_answer(call))


def _end_with_parent() -> None:
    # the parent never writes again: end-of-file means that it closed the pipe or died
    sys.stdin.read()
    os._exit(1)


def _answer(call: StageCall) -> Message:
    try:
        module, _, name = call.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(function)
        arguments = {name: TypeAdapter(hints[name]).validate_python(value) for name, value in call.arguments.items()}
        result = function(**arguments)
        return {"result": TypeAdapter(hints["return"]).dump_python(result, mode="json")}
    except Exception as error:  # noqa: BLE001 - the parent raises it again, or names it with its traceback
        kind, message = _named(error)
        return {"error": {"class": kind.__name__, "message": message, "traceback": traceback.format_exc()}}


def _named(error: Exception) -> tuple[type[Exception], str]:
    """Return the class that says who has to act, and the message."""
    if ran_out_of_memory(error):
        return OutOfMemoryError, str(error)
    if ran_out_of_disk(error):
        host = socket.gethostname()
        return DiskFullError, f"{host} has no room for a file ({error}); free space there, or set TMPDIR"
    return type(error), str(error)


if __name__ == "__main__":
    # run as the importable module, not as __main__, so that `report_progress` sees the same channel
    importlib.import_module("tasks.runtime.isolation").serve_one_call(int(os.environ.pop(_CHANNEL)))
