import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_servers_that_start_at_once_on_one_new_database_all_answer(tmp_path: Path) -> None:
    environment = os.environ | {"STILLHOUSE_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "tasks.runtime.prefect_server"]
    servers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    try:
        for server in servers:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=120).json() is True
    finally:
        for server in servers:
            server.communicate("", timeout=60)  # end-of-file on its input tells a server to end
