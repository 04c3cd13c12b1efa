"""What runs where on the hosts: the control host with its servers, a Ray cluster, gateways, and hosts for flows."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.adapters.s3_server import CREDENTIALS
from tests.hosts.network import SUBNET, Host
from tests.postgres_server import programs

CHECKOUT = Path(__file__).parents[2]
BUCKET = "stillhouse"
HOSTS = {
    "control": 10, "head": 11, "worker-1": 21, "worker-2": 22, "gateway-1": 31, "gateway-2": 32, "flow-1": 41,
    "flow-2": 42,
}  # fmt: skip
_RAY = str(Path(sys.executable).with_name("ray"))
SCRATCH = Path("/mnt")
"""Where programs of a host write what they keep: a small disk of its own."""

SETTINGS = {
    "STILLHOUSE_STORE_URL": f"s3://{BUCKET}/store",
    "STILLHOUSE_TRAFFIC_URL": f"s3://{BUCKET}/traffic",
    "STILLHOUSE_S3_ENDPOINT": "http://control:9000",
    "STILLHOUSE_LEDGER_URL": "postgresql+psycopg://stillhouse@control/ledger",
    "STILLHOUSE_TRACKING_URL": "http://control:5000",
    "STILLHOUSE_GATEWAY_URL": "http://gateway-1:8080",
    "STILLHOUSE_EXECUTION": "ray",
    "STILLHOUSE_RAY_ADDRESS": "ray://head:10001",
    "STILLHOUSE_PLACEMENT_TIMEOUT_S": "300",
    "PREFECT_API_URL": "http://control:4200/api",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # all hosts share this machine's processors
    "AWS_DEFAULT_REGION": "us-east-1",
} | CREDENTIALS


@dataclass(frozen=True)
class Service:
    """One program on one host."""

    host: str
    command: Sequence[str]
    ready: Sequence[str] = ("true",)
    """A command that succeeds on the host as soon as the service answers."""
    environment: Mapping[str, str] = field(default_factory=dict)


def environment_of(host: Host) -> dict[str, str]:
    """Return what every program on a host finds in its environment."""
    own = {
        "HOME": str(host.home),
        "PYTHONPATH": str(CHECKOUT),
        "STILLHOUSE_HOME": str(SCRATCH / "stillhouse"),
        "STILLHOUSE_PROJECT": str(host.home / "project"),
        "STILLHOUSE_BASELINES": str(host.home / "baselines"),
        "TMPDIR": str(SCRATCH),
    }
    return {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | SETTINGS | own


def services(folder: Path) -> dict[str, Service]:
    """Return all services by name; `folder` is where the database and the mode of S3 lie."""
    python, control = sys.executable, f"{SUBNET}.{HOSTS['control']}"
    return {
        "postgres": Service(
            "control",
            [
                *AS_POSTGRES,
                str(programs() / "postgres"),
                "-D",
                str(folder / "postgres" / "data"),
                "-h",
                control,
                "-k",
                "",
                "-c",
                "fsync=off",
                "-c",
                "max_connections=200",
            ],
            [str(programs() / "pg_isready"), "-q", "-h", "control"],
        ),
        "s3": Service("control", [python, "-m", "moto.server", "-H", control, "-p", "9001"], _answers(9001)),
        "s3-front": Service(
            "control",
            [python, "-m", "tests.hosts.s3_front", control, "9000", "9001", str(folder / "s3-mode")],
            _answers(9000),
        ),
        "prefect": Service(
            "control",
            [python, "-m", "prefect", "server", "start", "--host", control, "--port", "4200"],
            _answers(4200, "/api/ready"),
            {
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://stillhouse@control/prefect",
                "PREFECT_UI_ENABLED": "0",
                # five seconds by default, which a busy machine exceeds when everything starts at once
                "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
                "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            },
        ),
        "mlflow": Service(
            "control",
            [
                python,
                "-m",
                "mlflow",
                "server",
                "--host",
                control,
                "--port",
                "5000",
                "--workers",
                "1",
                "--allowed-hosts",
                "control:5000",
                "--artifacts-destination",
                "s3://mlflow/artifacts",
            ],
            _answers(5000, "/health"),
            {
                "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://stillhouse@control/mlflow",
                "MLFLOW_S3_ENDPOINT_URL": "http://control:9000",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        ),
        "head": _ray_node(
            "head", ["--head", "--port=6379", "--ray-client-server-port=10001", "--num-cpus=0"], target=1
        ),
        "worker-1": _ray_node("worker-1", ["--address=head:6379", "--num-cpus=2", "--num-gpus=1"]),
        "worker-2": _ray_node("worker-2", ["--address=head:6379", "--num-cpus=2", "--num-gpus=1"]),
        **{f"mirror-{number}": _mirror(f"gateway-{number}") for number in (1, 2)},
        **{f"gateway-{number}": _gateway(f"gateway-{number}") for number in (1, 2)},
    }


def _ray_node(host: str, options: list[str], target: int = 0) -> Service:
    command = [_RAY, "start", *options, f"--node-ip-address={SUBNET}.{HOSTS[host]}", "--block", "--disable-usage-stats"]
    command += ["--object-store-memory=104857600"]
    if target:
        command += ["--include-dashboard=false", "--temp-dir=/tmp/ray", f'--resources={{"target-cpu": {target}}}']
    return Service(host, command, [_RAY, "health-check", "--address=head:6379"] if target else ("true",))


def _mirror(host: str) -> Service:
    return Service(host, [sys.executable, "-m", "flows.cli", "store", "mirror", "--ship-seconds", "2"])


def _gateway(host: str) -> Service:
    place = SCRATCH / "stillhouse"
    command = [sys.executable, "-m", "infra.gateway", "--store", str(place / "store"), "--traffic"]
    command += [str(place / "traffic"), "--host", f"{SUBNET}.{HOSTS[host]}", "--port", "8080", "--allow-anonymous"]
    return Service(host, command, ["curl", "-sSf", f"http://{host}:8080/v2/health/live"])


def _answers(port: int, path: str = "/") -> list[str]:
    return ["curl", "-sSf", "--max-time", "5", "-o", "/dev/null", f"http://control:{port}{path}"]


AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "--chdir=/")
