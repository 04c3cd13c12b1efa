"""Ending what `stillhouse up` started: just those processes, in reverse order, and for certain."""

import signal
from collections.abc import Callable

from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import LockTakenError, ServiceUnavailableError
from tasks.runtime.processes import end, is_running, marked
from tasks.runtime.service_state import LOCK, MARK, ServicesState, ServiceState, read_state, services_file
from tasks.runtime.settings import Settings

_BESIDES_S = 30.0
"""What a supervisor may take beside what its services may."""
_ROUNDS = 10
"""What is told to end may have started something just before, which the next round finds."""


def end_services(settings: Settings, say: Callable[[str], None]) -> None:
    """End the services of this home, if any run; repeating it does no harm.

    Raises:
        ServiceUnavailableError: another `stillhouse up` began meanwhile.
    """
    state = read_state(settings)
    if state is None:
        say("nothing runs here")
        return
    names = state.running
    if state.is_supervised:
        bound_s = _BESIDES_S + sum(one.stop_within_s for one in state.services)
        if end([state.supervisor], signal.SIGTERM, bound_s):
            say(f"`stillhouse up` (process {state.supervisor.pid}) did not end within {bound_s:g} s and was killed")
    _end_left_over(settings, state, say)
    if state.failure:
        say(f"they had ended by themselves: {state.failure}")
    elif names:
        say(f"ended: {', '.join(reversed(names))}")
    else:
        say("nothing runs here")


def end_service(service: ServiceState) -> list[str]:
    """End one service and whatever it started, and return what had to be said of it.

    What is late is killed. Of PostgreSQL its first process alone is asked: it ends the others in order.
    """
    number, killed = signal.Signals(service.stop_signal), set()
    if number is signal.SIGINT:
        killed = end([service.process], number, service.stop_within_s)
    for _ in range(_ROUNDS):
        left = {one for one in {service.process} | marked(MARK, service.mark) if is_running(one)}
        if not left:
            break
        killed |= end(left, signal.SIGTERM, service.stop_within_s)
    if not killed:
        return []
    return [f"{service.name} did not end within {service.stop_within_s:g} s and was killed; see {service.log}"]


def _end_left_over(settings: Settings, state: ServicesState, say: Callable[[str], None]) -> None:
    """End what a supervisor that was killed could not, and remove what it had written down."""
    try:
        with FileLocks(settings.home / "locks").hold(LOCK, timeout_s=5.0):
            for service in reversed(state.services):
                if is_running(service.process):
                    say(f"{service.name} ran without its `stillhouse up`")
                for line in end_service(service):
                    say(line)
            services_file(settings).unlink(missing_ok=True)
    except LockTakenError:
        raise ServiceUnavailableError(
            "another `stillhouse up` began meanwhile; call `stillhouse down` again to end that one"
        ) from None
