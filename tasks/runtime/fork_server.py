"""A process that has imported what stages import, and forks itself for each call: a start takes milliseconds.

Forking is safe only for a process that has one thread and has computed nothing, so this one imports, and never calls
what it imported. Should an import have started a thread, it refuses to fork. It refuses too once a source file is not
what it was before the imports: the child would execute other code than its cache key says.

It is told what to do over a Unix socket, and ends when that is closed and its last child has ended. See
`tasks.runtime.warm_processes` for the other end.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_MESSAGE_BYTES = 2**20

IMPORTS = (
    *("torch", "onnx", "safetensors.torch", "scipy.stats", "sqlalchemy"),
    # what an export to ONNX imports late, seconds of it; where a name is gone in another version, it costs time alone
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "onnxscript.function_libs.torch_lib.ops",
    "onnxscript.rewriter",
    "networkx",
    # the stages themselves
    "tasks.runtime.isolation",
    "tasks.stages.applying",
    "tasks.stages.baselines",
    "tasks.stages.evaluating",
    "tasks.stages.exporting",
    "tasks.stages.gating",
    "tasks.stages.serving",
    "tasks.models.onnx_export",
    "tasks.techniques.training",
)
"""Not onnxruntime, which starts a thread when it is imported, and takes a tenth of a second."""
_SOURCE = Path(__file__).parents[1]

Stamps = dict[str, tuple[int, int]]
"""Modification time and size of source files, by path."""


@dataclass(frozen=True)
class Birth:
    """What a forked child is told: its place in the world."""

    environment: dict[str, str]
    """All of it."""
    channel: int
    """Descriptor that the answer goes to."""


def main(descriptor: int, imports: Sequence[str]) -> None:
    """Import, then serve the socket `descriptor`. A child makes its call in here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the flow, which ends this
    control = socket.socket(fileno=descriptor)
    before = source_stamps(_SOURCE)
    for name in imports:
        with contextlib.suppress(ImportError):  # whoever needs it will say so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the children's collections do not copy what they share with this process
    control.send(b'{"ready": true}')
    birth = _Server(control, before).serve()
    if birth is not None:
        _live(birth)


def source_stamps(folder: Path) -> Stamps:
    """Return what is known of all Python files below a folder without reading them."""
    found: Stamps = {}
    for path in folder.rglob("*.py"):
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            found[str(path)] = facts.st_mtime_ns, facts.st_size
    return found


def num_threads() -> int:
    """Return how many threads this process has, those of native libraries included."""
    return len(os.listdir("/proc/self/task"))


class _Server:
    """Forks on request and says how each child ended."""

    def __init__(self, control: socket.socket, before: Stamps) -> None:
        self._control = control
        self._before = before
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, int]] = {}
        """By the descriptor that becomes readable at a child's end: its process id, and where its end is told."""
        self._is_open = True

    def serve(self) -> Birth | None:
        """Go on until the socket is closed and all children have ended: None. In a child: what it is told."""
        while self._is_open or self._children:
            for key, _ in self._selector.select():
                if key.fd in self._children:
                    self._bury(key.fd)
                elif (birth := self._answer()) is not None:
                    return birth
        return None

    def _answer(self) -> Birth | None:
        data, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 4)
        if not data:
            self._selector.unregister(self._control)
            self._is_open = False
            return None
        refusal = self._refusal()
        birth = None
        if refusal:
            self._control.send(json.dumps({"refusal": refusal}).encode())
        else:
            birth = self._fork(json.loads(data)["environment"], *descriptors)
        if birth is None:
            for descriptor in descriptors:
                os.close(descriptor)
        return birth

    def _refusal(self) -> str:
        if num_threads() > 1:
            return f"it has {num_threads()} threads, and a process with threads must not be forked"
        if source_stamps(_SOURCE) != self._before:
            return "stale"
        return ""

    def _fork(self, environment: dict[str, str], stdin: int, output: int, channel: int) -> Birth | None:
        ended, told = os.pipe()
        process = os.fork()
        if process == 0:
            self._leave(ended, told)
            for source, target in ((stdin, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            os.close(stdin)
            os.close(output)
            return Birth(environment, channel)
        watched = os.pidfd_open(process)
        self._children[watched] = process, told
        self._selector.register(watched, selectors.EVENT_READ)
        socket.send_fds(self._control, [json.dumps({"pid": process}).encode()], [watched, ended])
        os.close(ended)
        return None

    def _leave(self, *pipe: int) -> None:
        """Close in a child what is its parent's alone."""
        self._selector.close()
        self._control.close()
        others = [descriptor for watched, (_, told) in self._children.items() for descriptor in (watched, told)]
        for descriptor in (*pipe, *others):
            os.close(descriptor)

    def _bury(self, watched: int) -> None:
        process, told = self._children.pop(watched)
        self._selector.unregister(watched)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
            os.write(told, str(code).encode())
        os.close(told)
        os.close(watched)


def _live(birth: Birth) -> None:
    """Be a child: make one call, as a fresh interpreter would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.unfreeze()
    os.environ.clear()
    os.environ.update(birth.environment)
    if "numpy" in sys.modules:  # else all children would draw alike; Python's own generator sees to itself
        sys.modules["numpy"].random.seed()
    isolation = importlib.import_module("tasks.runtime.isolation")
    try:
        isolation.serve_one_call(birth.channel)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # what was inherited is not this process's to clean up


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
