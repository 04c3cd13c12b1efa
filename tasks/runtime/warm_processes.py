"""Stage processes that start in milliseconds, since a fork server beside the flow has imported what they need.

It is used when it is ready and suits; nobody waits for it, and whoever cannot have such a process starts a fresh
interpreter, which computes the same.
"""

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from tasks.runtime import fork_server

_MAX_SERVERS = 8
"""In one flow; servers are replaced when source or environment change, and something may change all the time."""
_ENDS_WITHIN_S = 5.0
_logger = logging.getLogger(__name__)


class ForkedProcess:
    """A process that the fork server forked, seen from the flow; used as `subprocess.Popen` is."""

    def __init__(self, pid: int, watched: int, ended: int, stdin: IO[str], stdout: IO[str]) -> None:
        """Take over descriptors of the process, of its end, and of its standard streams."""
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self._watched = watched
        self._ended = ended
        self._code: int | None = None
        self._guard = threading.Lock()

    def kill(self) -> None:
        """End the process at once; it is named by a descriptor, so that no other one can be met."""
        with self._guard, suppress(ProcessLookupError):
            if self._code is None:
                signal.pidfd_send_signal(self._watched, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal; one thread may wait."""
        if self._code is None:
            told = os.read(self._ended, 64)
            with self._guard:
                # a server that died cannot tell; its children end with their standard input, as after a kill
                self._code = int(told) if told else -signal.SIGKILL
                os.close(self._ended)
                os.close(self._watched)
        return self._code


class WarmProcesses:
    """Gives processes of one fork server for each kind of process that is asked for."""

    def __init__(self, imports: Sequence[str] = fork_server.IMPORTS) -> None:
        """Prepare; the first process that is asked for starts a server, which then imports the modules `imports`."""
        self._imports = imports
        self._guard = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._replaced: list[_Server] = []
        self._num_started = 0
        self._given_up = not hasattr(os, "pidfd_open")
        weakref.finalize(self, _end_all, self._servers, self._replaced)

    def start(self, base: Mapping[str, str], added: Mapping[str, str], channel: int) -> ForkedProcess | None:
        """Start a process; None if none can be had now, and a fresh interpreter is to be started.

        Args:
            base: environment; what libraries read when they are loaded must be in it.
            added: more of it, for this process alone, which no library reads when it is loaded.
            channel: descriptor for the process's answer; it stays open here.
        """
        with self._guard:
            if self._given_up:
                return None
            server = self._server_for(base)
            if not server.is_ready():
                if server.has_failed():
                    _logger.warning("stage processes start afresh from now on: the fork server did not start")
                    self._given_up = True
                return None
            try:
                return server.fork({**base, **added}, channel)
            except _RefusedError as error:
                self._refused(base, error)
            except OSError as error:
                _logger.warning("stage processes start afresh from now on: the fork server was lost (%s)", error)
                self._given_up = True
            return None

    def is_ready(self) -> bool:
        """Tell whether a process like the last one that was asked for could be had now."""
        with self._guard:
            return bool(self._servers) and next(reversed(self._servers.values())).is_ready()

    def _server_for(self, base: Mapping[str, str]) -> "_Server":
        kind = base.get("OMP_NUM_THREADS", "")
        server = self._servers.get(kind)
        if server is None or server.differs(base):
            self._replace(kind)
            server = self._servers[kind] = _Server(base, self._imports)
            self._num_started += 1
            self._given_up = self._num_started > _MAX_SERVERS
        return server

    def _refused(self, base: Mapping[str, str], error: "_RefusedError") -> None:
        if str(error) == "stale":  # the next call finds a server with the new source
            self._replace(base.get("OMP_NUM_THREADS", ""))
            return
        _logger.info("stage processes start afresh from now on: %s", error)
        self._given_up = True

    def _replace(self, kind: str) -> None:
        old = self._servers.pop(kind, None)
        if old is not None:
            old.close()
            self._replaced.append(old)


class _RefusedError(Exception):
    """The server does not fork."""


class _Server:
    """One fork server, seen from the flow."""

    def __init__(self, base: Mapping[str, str], imports: Sequence[str]) -> None:
        self._base = dict(base)
        self._folder = os.getcwd()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", fork_server.__name__, str(theirs.fileno()), *imports],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=self._base,
            )
        self._is_ready = False

    def differs(self, base: Mapping[str, str]) -> bool:
        """Tell whether libraries would find another environment in a fresh interpreter than they did in the server."""
        return _seen_by_libraries(self._base) != _seen_by_libraries(base) or self._folder != os.getcwd()

    def is_ready(self) -> bool:
        """Tell whether it has imported everything; asks, and does not wait."""
        if not self._is_ready and select.select([self._control], [], [], 0)[0]:
            self._is_ready = bool(self._control.recv(fork_server.MAX_MESSAGE_BYTES))
        return self._is_ready

    def has_failed(self) -> bool:
        """Tell whether it ended before it was ready."""
        return self._process.poll() is not None

    def fork(self, environment: Mapping[str, str], channel: int) -> ForkedProcess:
        """Ask for a process with that environment and return it.

        Raises:
            _RefusedError: the server does not fork; says why.
            OSError: the server is gone.
        """
        their_input, our_input = os.pipe()
        our_output, their_output = os.pipe()
        try:
            order = json.dumps({"environment": dict(environment)}).encode()
            socket.send_fds(self._control, [order], [their_input, their_output, channel])
            pid, watched, ended = self._told()
        except BaseException:
            os.close(our_input)
            os.close(our_output)
            raise
        finally:
            os.close(their_input)
            os.close(their_output)
        stdin, stdout = os.fdopen(our_input, "w"), os.fdopen(our_output, errors="replace")
        return ForkedProcess(pid, watched, ended, stdin, stdout)

    def _told(self) -> tuple[int, int, int]:
        data, descriptors, _, _ = socket.recv_fds(self._control, fork_server.MAX_MESSAGE_BYTES, 2)
        if not data:
            raise ConnectionResetError("it ended")
        answer = json.loads(data)
        if "refusal" in answer:
            raise _RefusedError(answer["refusal"])
        watched, ended = descriptors
        return int(answer["pid"]), watched, ended

    def close(self) -> None:
        """Let it end once its last child has; one that only imports yet is ended."""
        self._control.close()
        if not self._is_ready:
            self._process.kill()

    def end(self) -> None:
        """End it; its children have ended, or end with this process."""
        self.close()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _seen_by_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what no library reads when it is loaded.

    These are names that begin with an underscore, by which programs such as MLflow tell their own children, and the
    GPUs, at which CUDA looks when it is first used: a fork server never uses it, and Ray changes them by the stage.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("_") and name != "CUDA_VISIBLE_DEVICES"
    }


def _end_all(servers: dict[str, _Server], replaced: list[_Server]) -> None:
    for server in (*servers.values(), *replaced):
        server.end()
