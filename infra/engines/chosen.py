"""Which services `stillhouse up` runs, by its options and the settings."""

import os
import platform
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from infra.engines.service import HOST, Service, answers, free_ports, has_worker
from tasks.adapters.gateway_companion import has_companion
from tasks.adapters.mlflow_connection import environment_of_mlflow
from tasks.adapters.postgres_cluster import PostgresCluster
from tasks.contracts.errors import UserError
from tasks.runtime.own_postgres import DATABASES, OwnPostgres
from tasks.runtime.placement import visible_gpus
from tasks.runtime.settings import Settings, environment_of_services

CPU_POOL, GPU_POOL = "cpu", "gpu"
WORKER = "worker"
"""The services that run flows are called that, and more than that."""
_PREFECT_DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_IN_POSTGRES = {
    "STILLHOUSE_TRACKING_URL": "postgresql+psycopg://mlflow@HOST/mlflow",
    _PREFECT_DATABASE: "postgresql+asyncpg://prefect@HOST/prefect",
}


@dataclass(frozen=True)
class Options:
    """What a user says of them. A port of 0 is a free one."""

    prefect_port: int = 4200
    mlflow_port: int = 5000
    gateway_port: int = 8080
    postgres: bool = False
    """Keep all that databases hold in PostgreSQL, instead of SQLite."""
    worker: bool = False
    """Deploy what prefect.yaml names, and run workers for it."""


def with_ports(options: Options, settings: Settings) -> Options:
    """Return the options with every port that is needed, and free.

    Raises:
        UserError: something else listens on one.
    """
    wanted = {"--prefect-port": options.prefect_port, "--gateway-port": options.gateway_port}
    if _runs_mlflow(settings):
        wanted["--mlflow-port"] = options.mlflow_port
    free = free_ports(wanted)
    return replace(
        options,
        prefect_port=free["--prefect-port"],
        mlflow_port=free.get("--mlflow-port", options.mlflow_port),
        gateway_port=free["--gateway-port"],
    )


def chosen_cluster(settings: Settings, options: Options) -> PostgresCluster | None:
    """Return the home's own PostgreSQL where it is to be run: once made, it holds the home's state.

    Raises:
        UserError: PostgreSQL is asked for and cannot be had.
    """
    own = OwnPostgres(settings.home)
    if settings.ledger_url is None:
        return PostgresCluster(settings.home) if options.postgres or own.is_made else None
    if options.postgres:
        _require_all_in_postgres(settings)
    return None


def chosen_services(settings: Settings, options: Options, cluster: PostgresCluster | None) -> list[Service]:
    """Return the services in the order in which they are to be started."""
    services = [] if cluster is None else [_postgres(cluster)]
    prefect = _prefect(options.prefect_port, cluster)
    services.append(prefect)
    if _runs_mlflow(settings):
        services.append(_mlflow(settings, options.mlflow_port))
    services.append(_gateway(settings, options.gateway_port))
    if options.worker:
        services.append(_worker(settings, prefect.address, CPU_POOL, WORKER))
        if visible_gpus():
            services.append(_worker(settings, prefect.address, GPU_POOL, f"{WORKER}-{GPU_POOL}"))
    return services


def deployment(settings: Settings, prefect_api: str) -> tuple[list[str], Path, dict[str, str]]:
    """Return command, folder and environment that make pools and deployments equal to the project's prefect.yaml.

    Raises:
        UserError: the project has none.
    """
    if not (settings.project / "prefect.yaml").is_file():
        raise UserError(
            f"{settings.project} has no prefect.yaml, so a worker would have nothing to do; set STILLHOUSE_PROJECT to "
            "a checkout that has one, or leave --worker away"
        )
    script = Path(__file__).parents[1] / "prefect" / "deploy.py"
    return [sys.executable, str(script), "process"], settings.project, _environment_of_flows(settings, prefect_api)


def _runs_mlflow(settings: Settings) -> bool:
    """Tell whether there is a database to serve; a tracking server that is named runs elsewhere."""
    return not settings.tracking_address.startswith(("http:", "https:"))


def _require_all_in_postgres(settings: Settings) -> None:
    """Check that what `--postgres` promises holds where STILLHOUSE_LEDGER_URL names a server that others run."""
    if not settings.ledger_is_shared:
        raise UserError("--postgres, but STILLHOUSE_LEDGER_URL names another kind of database; unset one of the two")
    elsewhere = settings.tracking_address.startswith(("http:", "https:", "postgresql"))
    there = {"STILLHOUSE_TRACKING_URL": elsewhere, _PREFECT_DATABASE: _PREFECT_DATABASE in os.environ}
    missing = [f"{name}={_IN_POSTGRES[name]}" for name, is_said in there.items() if not is_said]
    if missing:
        raise UserError(
            "--postgres, and STILLHOUSE_LEDGER_URL names a server that is not this home's: say where on it MLflow and "
            f"Prefect have databases of their own: {', '.join(missing)} (docs/operations.md has the SQL)"
        )


def _postgres(cluster: PostgresCluster) -> Service:
    return Service(
        "postgres",
        cluster.command,
        cluster.answers,
        address="",
        page=f"databases {', '.join(DATABASES)} on the socket in {cluster.own.socket_folder}",
        environment=environment_of_services(),
        stop_signal=signal.SIGINT,  # its fast shutdown: sessions are ended, and what they committed is written
        stop_within_s=60.0,
        then=cluster.prepare,
    )


def _prefect(port: int, postgres: PostgresCluster | None) -> Service:
    url = f"http://{HOST}:{port}"
    database = postgres.own.prefect_environment if postgres else {}
    pages = {"PREFECT_UI_API_URL": f"{url}/api"}  # else its pages ask port 4200, whatever the port is
    return Service(
        "prefect_api",
        [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)],
        answers(f"{url}/api/health"),
        f"{url}/api",
        url,
        environment_of_services() | pages | database,
    )


def _mlflow(settings: Settings, port: int) -> Service:
    url = f"http://{HOST}:{port}"
    # not an argument, which every user can read
    database = {"MLFLOW_BACKEND_STORE_URI": settings.tracking_address}
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # half a dozen processes for what nobody here asks
    artifacts = settings.mlflow_artifacts_address
    return Service(
        "mlflow",
        [
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
            "--default-artifact-root", artifacts,
        ],
        answers(f"{url}/health"),
        url,
        url,
        no_jobs | environment_of_mlflow(settings) | environment_of_services() | database,
    )  # fmt: skip


def _gateway(settings: Settings, port: int) -> Service:
    url = f"http://{HOST}:{port}"
    program = ["flows.cli", "serve"] if has_companion(settings) else ["infra.gateway"]
    folders = ["--store", str(settings.store_root), "--traffic", str(settings.traffic_root)]
    return Service(
        "gateway",
        [sys.executable, "-m", *program, *folders, "--host", HOST, "--port", str(port)],
        answers(f"{url}/v2/health/live"),
        url,
        f"{url}/v2",
        environment_of_services() | settings.gateway_environment,
        stop_within_s=90.0
        if has_companion(settings)
        else 45.0,  # it answers what it has, and sends the last of the log
    )


def _worker(settings: Settings, prefect_api: str, pool: str, service: str) -> Service:
    name = f"up-{platform.node()}-{os.getpid()}"
    return Service(
        service,
        [
            sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool, "--name", name,
        ],
        has_worker(prefect_api, pool, name),
        "",
        f"work pool {pool}",
        _environment_of_flows(settings, prefect_api),
        stop_within_s=60.0,  # a flow that is told to stop ends its stages first
    )  # fmt: skip


def _environment_of_flows(settings: Settings, prefect_api: str) -> dict[str, str]:
    """Return this process's environment, in which flows find the same services, wherever they start."""
    programs = str(Path(sys.executable).parent)
    return dict(os.environ) | {
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "PREFECT_API_URL": prefect_api,
        "STILLHOUSE_HOME": str(settings.home),
        "STILLHOUSE_PROJECT": str(settings.project),
    }
