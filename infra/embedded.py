"""The engines as child processes on loopback: Prefect server, MLflow server, gateway."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import httpx

from tasks.adapters.gateway_companion import has_companion
from tasks.adapters.local_store import write_atomically
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.runtime.embedded import running_services, services_file
from tasks.runtime.settings import Settings, current_settings, environment_of_services

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class _Service:
    name: str
    command: list[str]
    health: str
    """URL that answers 200 once the service is ready."""
    address: str
    """What others use to reach it."""
    page: str
    """What a person opens."""
    environment: dict[str, str] = field(default_factory=dict)


def run_services(prefect_port: int, mlflow_port: int, gateway_port: int, say: Callable[[str], None]) -> None:
    """Start the services, wait until they are healthy, and stay until a signal or until one of them ends.

    Raises:
        UserError: they run already.
        ServiceUnavailableError: one did not become healthy, or ended; its log is named.
    """
    settings = current_settings()
    if running_services(settings):
        raise UserError(f"the services run already; {services_file(settings)} says where")
    services = _services(settings, prefect_port, mlflow_port, gateway_port)
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for service in services:
            processes[service.name] = _start(service, settings)
        for service in services:
            _wait_until_healthy(service, processes[service.name], settings, stopped)
            say(f"{service.name}: {service.page}")
        addresses = {service.name: service.address for service in services}
        document = json.dumps({"pid": os.getpid(), "addresses": addresses}).encode()
        write_atomically(services_file(settings), document)
        while not stopped:
            _require_running(processes, settings)
            time.sleep(0.5)
    finally:
        services_file(settings).unlink(missing_ok=True)
        _stop(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _services(settings: Settings, prefect_port: int, mlflow_port: int, gateway_port: int) -> list[_Service]:
    mlflow_artifacts = settings.mlflow_artifacts or str(settings.home / "mlflow-artifacts")
    prefect, mlflow, gateway = (f"http://{_HOST}:{port}" for port in (prefect_port, mlflow_port, gateway_port))
    python = sys.executable
    return [
        _Service(
            "prefect_api",
            [python, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(prefect_port)],
            f"{prefect}/api/health",
            f"{prefect}/api",
            prefect,
            {"PREFECT_UI_API_URL": f"{prefect}/api"},  # else its pages ask port 4200, whatever the port is
        ),
        _Service(
            "mlflow",
            [
                python,
                "-m",
                "mlflow",
                "server",
                "--host",
                _HOST,
                "--port",
                str(mlflow_port),
                "--workers",
                "1",
                "--default-artifact-root",
                mlflow_artifacts,
            ],
            f"{mlflow}/health",
            mlflow,
            mlflow,
            {"MLFLOW_BACKEND_STORE_URI": settings.tracking_address},  # not an argument, which every user can read
        ),
        _Service(
            "gateway",
            [
                python,
                "-m",
                *(["flows.cli", "serve"] if has_companion(settings) else ["infra.gateway"]),
                "--store",
                str(settings.store_root),
                "--traffic",
                str(settings.traffic_root),
                "--host",
                _HOST,
                "--port",
                str(gateway_port),
            ],
            f"{gateway}/v2/health/live",
            gateway,
            f"{gateway}/v2",
            settings.gateway_environment,
        ),
    ]


def _log_path(service_name: str, settings: Settings) -> str:
    return str(settings.home / "logs" / f"{service_name}.log")


def _start(service: _Service, settings: Settings) -> subprocess.Popen[bytes]:
    (settings.home / "logs").mkdir(parents=True, exist_ok=True)
    with open(_log_path(service.name, settings), "ab") as log:
        # a session of its own, so that Ctrl-C reaches this process alone and the children end in order
        environment = environment_of_services() | service.environment
        return subprocess.Popen(
            service.command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def _wait_until_healthy(
    service: _Service, process: subprocess.Popen[bytes], settings: Settings, stopped: list[int]
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not stopped:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceUnavailableError(
                f"{service.name} did not become healthy at {service.health}; see {_log_path(service.name, settings)}. "
                "Is its port taken? `stillhouse up --help` shows how to choose another."
            )
        try:
            if httpx.get(service.health, timeout=2.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)


def _require_running(processes: dict[str, subprocess.Popen[bytes]], settings: Settings) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise ServiceUnavailableError(
                f"{name} ended with code {process.returncode}; see {_log_path(name, settings)}"
            )


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for process in processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for process in processes.values():
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
