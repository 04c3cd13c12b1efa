"""`stillhouse up` in the background: a process of its own, which is waited for until its services are ready."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.runtime.service_state import read_state
from tasks.runtime.settings import Settings

_LOOK_S = 0.2
_USER_ERROR = 2


def run_detached(settings: Settings, arguments: list[str], say: Callable[[str], None]) -> None:
    """Start `stillhouse up` with these arguments in the background, and return when its services are ready.

    Raises:
        UserError: it refused; its words are in the message.
        ServiceUnavailableError: a service did not become ready; the message names it and its log.
    """
    log_path = settings.home / "logs" / "up.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        began = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            state = read_state(settings)
            if state is not None and state.ready and state.supervisor.pid == child.pid:
                for service in state.services:
                    say(f"{service.name}: {service.page}")
                say(f"they go on in the background; {log_path} is their log, `stillhouse down` ends them")
                return
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    said = log_path.read_bytes()[began:].decode(errors="replace").strip()
    why = said.rpartition("error:")[2].strip() or f"it ended with code {child.returncode}; see {log_path}"
    raise UserError(why) if child.returncode == _USER_ERROR else ServiceUnavailableError(why)
