"""MLflow and Prefect's server on PostgreSQL by the URLs that docs/operations.md gives."""

import io
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import linear_model

from tasks.contracts.value import sha256_hex
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings

pytestmark = pytest.mark.slow


def test_mlflow_registers_a_model_in_postgresql_under_locks_of_the_ledger(ledger_url, postgres_server, tmp_path):
    tracking_url = postgres_server.database()
    services = connect(Settings(home=tmp_path, ledger_url=ledger_url, tracking_url=tracking_url))
    model, example = linear_model(1.0), io.BytesIO()
    np.savez(example, x=np.ones((2, 4), np.float32))
    parent = services.tracker.parent_run("digits", "flow", "run", {})

    made = services.registry.register("digits", sha256_hex(model), model, example.getvalue(), {}, {}, parent)
    services.registry.set_alias("digits", "champion", made.version)

    assert services.registry.version_of("digits", "champion").version == 1
    assert postgres_server.query(tracking_url, "SELECT name, version FROM model_versions") == [("digits", 1)]
    assert postgres_server.query(ledger_url, "SELECT * FROM leases") == []


def test_prefects_server_keeps_its_flows_in_postgresql(postgres_server, tmp_path):
    url = postgres_server.database()
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url.replace("+psycopg", "+asyncpg"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.runtime.prefect_server"], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    ) as server:  # fmt: skip
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}/api"
        made = httpx.post(f"{address}/flows/", json={"name": "compress-model"}, timeout=120)
        server.stdin.close()

    assert made.status_code == httpx.codes.CREATED
    assert postgres_server.query(url, "SELECT name FROM flow") == [("compress-model",)]
