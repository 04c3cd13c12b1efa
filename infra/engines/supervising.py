"""Starting the services, watching them, and ending them in reverse order, whatever ends this process."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from infra.engines.chosen import WORKER, Options, chosen_cluster, chosen_services, deployment, with_ports
from infra.engines.ending import end_service
from infra.engines.service import Service
from tasks.adapters.locks import FileLocks
from tasks.adapters.s3_places import check_places
from tasks.contracts.errors import LockTakenError, ServiceUnavailableError, StillhouseError, UserError
from tasks.runtime.processes import identify, myself
from tasks.runtime.service_state import (
    LOCK,
    MARK,
    ServicesState,
    ServiceState,
    read_state,
    services_file,
    write_state,
)
from tasks.runtime.settings import Settings, current_settings

_READY_WITHIN_S = 600.0
_LOOK_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Asked(Exception):  # noqa: N818 - no error: somebody asked for the end
    """A signal asked this process to end."""


def run_services(options: Options, say: Callable[[str], None]) -> None:
    """Start the services, wait until all are ready, and stay until a signal, or until one of them ends.

    Raises:
        UserError: they run already, or an option cannot be met.
        ServiceUnavailableError: one did not become ready, or ended; its log is named.
    """
    settings = current_settings()
    with alone(settings), _asked_by_signals() as asked:
        for place in check_places(settings):
            say(f"s3: {place} can be used")
        options = with_ports(options, settings)
        cluster = chosen_cluster(settings, options)
        if cluster is not None:
            cluster.make()
        services = chosen_services(settings, options, cluster)
        Supervisor(settings, asked, say).run(services, options)


class Supervisor:
    """The children of one `stillhouse up`."""

    def __init__(self, settings: Settings, asked: list[int], say: Callable[[str], None]) -> None:
        self._settings, self._asked, self._say = settings, asked, say
        self._state = ServicesState(supervisor=myself())
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        (settings.home / "logs").mkdir(parents=True, exist_ok=True)

    def run(self, services: list[Service], options: Options) -> None:
        """See `run_services`."""
        self._write(self._state)
        failure = ""
        try:
            self._bring_up(services, options)
            self._write(self._state.model_copy(update={"ready": True}))
            while True:
                self._look()
                time.sleep(_LOOK_S)
        except _Asked:
            self._say("ending")
        except StillhouseError as error:
            failure = str(error)
            self._say("one failed; ending the others")
            raise
        finally:
            self._end_all(failure)

    def _bring_up(self, services: list[Service], options: Options) -> None:
        """Start what rests on others when these are ready, and all else at once."""
        by_name = {service.name: service for service in services}
        first = by_name.pop("postgres", None)
        last = [by_name.pop(name) for name in list(by_name) if name.startswith(WORKER)]
        api = by_name["prefect_api"].address
        command = deployment(self._settings, api) if options.worker else None
        if first is not None:
            self._start(first)
            self._wait([first])
        for service in by_name.values():
            self._start(service)
        self._wait(list(by_name.values()))
        if command is not None:
            self._deploy(*command)
            for service in last:
                self._start(service)
            self._wait(last)

    def _start(self, service: Service) -> None:
        mark = f"{service.name}/{self._state.supervisor.pid}/{self._state.supervisor.started}"
        with self._log(service.name).open("ab") as log:
            # a session of its own, so that Ctrl-C reaches this process alone and the children end in order
            child = subprocess.Popen(
                service.command,
                env={**service.environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[service.name] = child
        process = identify(child.pid)
        if process is None:  # it ended at once; what it said is in its log
            self._look()
        assert process is not None, "a child that was not waited for keeps its number"
        started = ServiceState(
            name=service.name,
            process=process,
            address=service.address,
            page=service.page,
            log=str(self._log(service.name)),
            stop_signal=service.stop_signal,
            stop_within_s=service.stop_within_s,
            mark=mark,
        )
        self._write(self._state.model_copy(update={"services": (*self._state.services, started)}))

    def _wait(self, waiting: list[Service]) -> None:
        """Wait until all are ready, and say so of each."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while waiting:
            for service in [one for one in waiting if one.is_ready()]:
                service.then()
                self._say(f"{service.name}: {service.page}")
                waiting.remove(service)
            self._look()
            if time.monotonic() > deadline:
                late = "; ".join(f"{one.name} (see {self._log(one.name)})" for one in waiting)
                raise ServiceUnavailableError(f"not ready within {_READY_WITHIN_S:g} s: {late}")
            time.sleep(_LOOK_S)

    def _deploy(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        with self._log("deploy").open("ab") as log:
            child = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            while child.poll() is None:
                self._look()
                time.sleep(_LOOK_S)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode:
            raise ServiceUnavailableError(
                f"the deployments of {folder / 'prefect.yaml'} could not be made; see {self._log('deploy')}"
            )

    def _look(self) -> None:
        """Make sure that nobody asked for the end, and that no child has ended."""
        if self._asked:
            raise _Asked
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                log = self._log(name)
                if code < 0:
                    raise ServiceUnavailableError(f"{name} was ended by {signal.Signals(-code).name}; see {log}")
                raise ServiceUnavailableError(f"{name} ended with code {code}; see {log}{_last_line(log)}")

    def _end_all(self, failure: str) -> None:
        for service in reversed(self._state.services):
            for line in end_service(service):
                self._say(line)
            self._children[service.name].wait()
        if failure:
            ended = {"ready": False, "services": (), "failure": failure}
            self._write(self._state.model_copy(update=ended))
        else:
            services_file(self._settings).unlink(missing_ok=True)

    def _write(self, state: ServicesState) -> None:
        self._state = state
        write_state(self._settings, state)

    def _log(self, name: str) -> Path:
        return self._settings.home / "logs" / f"{name}.log"


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Be the only one that runs the services of this home.

    Raises:
        UserError: they run already, or those of a `stillhouse up` that was killed still do.
    """
    try:
        lock = FileLocks(settings.home / "locks").acquire(LOCK, timeout_s=0)
    except LockTakenError:
        raise UserError(
            f"the services of {settings.home} run already, or are about to; {services_file(settings)} says where, "
            "`stillhouse down` ends them"
        ) from None
    try:
        state = read_state(settings)
        if state is not None and state.running:
            raise UserError(
                f"{', '.join(state.running)} of an earlier `stillhouse up`, which was killed, still run; "
                "`stillhouse down` ends them"
            )
        yield
    finally:
        lock.release()


@contextmanager
def _asked_by_signals() -> Iterator[list[int]]:
    """Give a list that gets the numbers of the signals that ask this process to end, instead of its end."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    previous = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""
