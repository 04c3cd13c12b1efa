"""The whole main job with everything in one bucket."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.s3_connection import S3Options, make_client
from tests.adapters.s3_server import CREDENTIALS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PORT_LINE = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 server in a process of its own, in which the environment names one place for everything."""
    port = subprocess.check_output([sys.executable, "-c", PORT_LINE], text=True).strip()
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "STILLHOUSE_BUCKET_URL": "s3://models/stillhouse",
        "STILLHOUSE_S3_ENDPOINT": endpoint,
    }
    for name, value in (CREDENTIALS | settings).items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(endpoint, timeout=5)
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the S3 server did not start in time"
            time.sleep(0.1)
    client = make_client(S3Options(endpoint=endpoint))
    client.create_bucket(Bucket="models")
    yield client
    server.terminate()
    server.wait(timeout=30)


def keys(client: Any, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="models", Prefix=f"stillhouse/{prefix}")
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def test_run_promotes_and_is_cached_with_nothing_of_its_own_on_the_machine(
    bucket: Any, stillhouse: Any, small_plan: Path
) -> None:
    stillhouse.call("data", "pull")
    stillhouse.call("data", "push")
    record = stillhouse.run(small_plan)
    assert record["rollout"]["verdict"] == "promote"
    for prefix in ("store/sha256/", "store/documents/runs/", "store/documents/routes/small/", "store/stages/"):
        assert keys(bucket, prefix), prefix
    assert keys(bucket, "store/checkpoints/") == []
    assert keys(bucket, "traffic/small/predictions/")
    assert list((stillhouse.home / "traffic").glob("*/predictions/*/*.parquet")) == []
    assert not (stillhouse.home / "store" / "stages").exists()
    assert {key.rpartition("/")[2] for key in keys(bucket, "mlflow/")} >= {"model.onnx", "plan.yaml"}
    assert keys(bucket, "dvc/files/md5/")
    assert {key.split("/")[1] for key in keys(bucket, "")} == {"store", "traffic", "mlflow", "dvc"}
    for folder in ("mlflow-artifacts", "dvc-remote", "prefect/storage"):  # the last is where Prefect keeps results
        assert not [path for path in (stillhouse.home / folder).rglob("*") if path.is_file()], folder
    artifacts = len(keys(bucket, "store/sha256/"))
    again = stillhouse.run(small_plan)
    assert again["rollout"]["verdict"] == "unchanged"
    assert all(stage["cached"] for candidate in again["candidates"] for stage in candidate["stages"])
    assert len(keys(bucket, "store/sha256/")) <= artifacts + 3  # what a second run writes of itself
    assert '"named"' in stillhouse.call("store", "gc", "--json")
    restores_data_in_a_fresh_checkout(stillhouse)


def restores_data_in_a_fresh_checkout(stillhouse: Any) -> None:
    """Another machine has `data.dvc` alone, of rows that Stillhouse does not ship: only the remote can have them."""
    rows = stillhouse.project / "data" / "own.csv"
    rows.write_text("a,b\n1,2\n")
    stillhouse.call("data", "add")
    stillhouse.call("data", "push")
    fresh = replace(stillhouse, project=stillhouse.project.parent / "fresh", home=stillhouse.home.parent / "fresh-home")
    fresh.project.mkdir()
    (fresh.project / "data.dvc").write_bytes((stillhouse.project / "data.dvc").read_bytes())
    assert "pulled" in fresh.call("data", "pull", "--json")
    assert (fresh.project / "data" / "own.csv").read_text() == rows.read_text()
