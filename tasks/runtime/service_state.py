"""What `stillhouse up` runs, as it writes it down: for other commands, for `stillhouse down`, and after a crash."""

from pathlib import Path

from pydantic import ValidationError

from tasks.adapters.local_store import write_atomically
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.value import Value
from tasks.runtime.processes import ProcessId, is_running
from tasks.runtime.settings import Settings

LOCK = "services"
"""Name of the lock, among the processes of this host, that the `stillhouse up` of a home holds."""
MARK = "SERVICE_OF_STILLHOUSE"
"""Variable in the environment of every service, and so of all that it starts."""


class ServiceState(Value):
    """One service that was started."""

    name: str
    process: ProcessId
    address: str
    """What others use to reach it; empty if nobody does."""
    page: str
    """What a person opens, or what the service works for."""
    log: str
    stop_signal: int
    """What asks it to end."""
    stop_within_s: float
    """How long it may take for that."""
    mark: str
    """Value of MARK in the environment of the service and of all that it starts."""


class ServicesState(Value):
    """Everything that one `stillhouse up` started, in the order of the start."""

    supervisor: ProcessId
    ready: bool = False
    """All services were healthy."""
    services: tuple[ServiceState, ...] = ()
    failure: str = ""
    """Why they ended, where nobody had asked for it."""

    @property
    def is_supervised(self) -> bool:
        """Whether the `stillhouse up` that started them runs."""
        return is_running(self.supervisor)

    @property
    def running(self) -> list[str]:
        """Names of the services that run now."""
        return [one.name for one in self.services if is_running(one.process)]


def services_file(settings: Settings) -> Path:
    """Return the file in which `stillhouse up` says what it runs and where."""
    return settings.home / "services.json"


def read_state(settings: Settings) -> ServicesState | None:
    """Return what `stillhouse up` wrote last, or None if nothing of it is left.

    Raises:
        InfrastructureError: the file is damaged.
    """
    try:
        return ServicesState.model_validate_json(services_file(settings).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InfrastructureError(f"{services_file(settings)} is damaged ({error}); remove it") from error


def write_state(settings: Settings, state: ServicesState) -> None:
    """Replace what was written."""
    write_atomically(services_file(settings), state.model_dump_json(indent=2).encode())
