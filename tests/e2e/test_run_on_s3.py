"""The whole main job with store and log in S3."""

import subprocess
import sys
import time
from collections.abc import Iterator
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
    """A client of an S3 server in a process of its own, which the environment names as the place of store and log."""
    port = subprocess.check_output([sys.executable, "-c", PORT_LINE], text=True).strip()
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "STILLHOUSE_STORE_URL": "s3://models/stillhouse/store",
        "STILLHOUSE_TRAFFIC_URL": "s3://models/stillhouse/traffic",
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
    record = stillhouse.run(small_plan)
    assert record["rollout"]["verdict"] == "promote"
    for prefix in ("store/sha256/", "store/documents/runs/", "store/documents/routes/small/", "store/stages/"):
        assert keys(bucket, prefix), prefix
    assert keys(bucket, "store/checkpoints/") == []
    assert keys(bucket, "traffic/small/predictions/")
    assert list((stillhouse.home / "traffic").glob("*/predictions/*/*.parquet")) == []
    assert not (stillhouse.home / "store" / "stages").exists()
    artifacts = len(keys(bucket, "store/sha256/"))
    again = stillhouse.run(small_plan)
    assert again["rollout"]["verdict"] == "unchanged"
    assert all(stage["cached"] for candidate in again["candidates"] for stage in candidate["stages"])
    assert len(keys(bucket, "store/sha256/")) <= artifacts + 3  # what a second run writes of itself
    assert '"named"' in stillhouse.call("store", "gc", "--json")
