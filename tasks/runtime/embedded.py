"""Embedded defaults for the engines, where the environment names none; set before they are imported."""

import os
from pathlib import Path

from tasks.contracts.errors import InfrastructureError
from tasks.runtime.service_state import read_state
from tasks.runtime.settings import Settings, current_settings

_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    # Prefect's pages get the log; the terminal gets what the command line itself says, once and without tracebacks
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
    "TQDM_DISABLE": "1",
}
_PREFECT_ADDRESS = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")


def use_embedded_engines() -> None:
    """Point Prefect to the embedded server, unless the environment or a profile names another."""
    settings = current_settings()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if any(os.environ.get(name) for name in _PREFECT_ADDRESS) or (Path.home() / ".prefect" / "profiles.toml").exists():
        return
    home = settings.home / "prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InfrastructureError(
            f"cannot make the folder {home}: {error.strerror}; set STILLHOUSE_HOME to one that can be written"
        ) from error
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
    address = running_services(settings).get("prefect_api")
    if address:
        os.environ["PREFECT_API_URL"] = address


def running_services(settings: Settings) -> dict[str, str]:
    """Return the addresses of what `stillhouse up` runs here now, by name; empty if it does not run.

    Raises:
        InfrastructureError: the file in which it says so is damaged.
    """
    state = read_state(settings)
    if state is None or not state.ready or not state.is_supervised:
        return {}
    return {one.name: one.address for one in state.services}
