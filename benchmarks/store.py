"""How fast an artifact goes into S3 and out of it, beside boto3's own transfer and `aws s3 cp` of the same bytes."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import numpy as np

from benchmarks.contenders import PEERS_VARIABLE
from benchmarks.result import Figure, Findings, figure, ratio
from benchmarks.store_memory import added_bytes
from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_connection import S3Options, make_client
from tasks.adapters.s3_store import S3Artifacts
from tasks.contracts.artifact import artifact_key
from tasks.contracts.object_place import ObjectPlace
from tasks.contracts.value import sha256_hex

ENDPOINT_VARIABLE = "BENCHMARK_S3_ENDPOINT"
"""Environment variable: an S3 server to measure against, with credentials in the environment; else one is started."""
_BYTES = 100 * 10**6
_REPEATS = 10
_SEED = 0
_BUCKET = "stillhouse-benchmark"
_START_WITHIN_S = 60.0


@dataclass(frozen=True)
class _Way:
    """A call that is timed, and what has to be done before it."""

    call: Callable[[], object]
    before: Callable[[], object] = lambda: None


def measure(num_bytes: int = _BYTES) -> Findings:
    """Put and get the same bytes by each way in turns."""
    with _endpoint() as endpoint, tempfile.TemporaryDirectory(prefix="stillhouse-bench-store-") as folder:
        ways = _ways(endpoint, np.random.default_rng(_SEED).bytes(num_bytes), Path(folder))
        milliseconds = _time_in_turns(ways)
        memory = _memory(endpoint, Path(folder) / "source")
        server = _server(endpoint)
    return Findings(
        question="What does verifying an artifact from end to end cost beside a plain copy to and from S3?",
        setup=(
            f"{num_bytes / 1e6:g} MB of random bytes, put under a new key and got again: through the store (in parts, "
            "each with a SHA-256 that the server is sent, digest verified on reading), by boto3's upload_file and "
            "download_file with their defaults, and by `aws s3 cp` where it is installed, its start included. "
            "Memory is what the peak of a process that does it once grows by; the store takes and gives bytes, boto3 "
            "files. "
            f"The server: {server}."
        ),
        seeds={"bytes": _SEED},
        figures=(*_figures(milliseconds), *memory),
    )


def _figures(milliseconds: dict[tuple[str, str], list[float]]) -> Iterator[Figure]:
    for direction in ("put", "get"):
        own = milliseconds["store", direction]
        for way in ("boto3", "aws s3 cp"):
            if theirs := milliseconds.get((way, direction)):
                yield ratio(f"rate of {direction}: store / {way}", theirs, own)
                yield figure(f"{direction} by {way}", "ms", theirs, supporting=True)
        yield figure(f"{direction} by the store", "ms", own, supporting=True)


def _memory(endpoint: str, source: Path) -> list[Figure]:
    """Ask each way in a process of its own, in the order in which what is got was put."""
    return [
        figure(
            f"memory of {direction} by {'the store' if way == 'store' else way}",
            "MB",
            [added_bytes(way, direction, endpoint, _BUCKET, source) / 1e6],
        )
        for way in ("store", "boto3")
        for direction in ("put", "get")
    ]


def _ways(endpoint: str, data: bytes, folder: Path) -> dict[tuple[str, str], _Way]:
    options = S3Options(endpoint=endpoint, region="us-east-1")
    client = make_client(options)
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=_BUCKET)
    plain = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    artifacts = S3Artifacts(Bucket(ObjectPlace(bucket=_BUCKET, prefix="store/"), options, ENDPOINT_VARIABLE))
    digest = sha256_hex(data)
    source, target = str(folder / "source"), str(folder / "target")
    Path(source).write_bytes(data)

    def absent(key: str) -> Callable[[], object]:
        return lambda: client.delete_object(Bucket=_BUCKET, Key=key)

    ways = {
        ("store", "put"): _Way(lambda: artifacts.put(data), absent(f"store/{artifact_key(digest)}")),
        ("boto3", "put"): _Way(lambda: plain.upload_file(source, _BUCKET, "boto3"), absent("boto3")),
        ("store", "get"): _Way(lambda: artifacts.get(digest)),
        ("boto3", "get"): _Way(lambda: plain.download_file(_BUCKET, "boto3", target)),
    }
    if command := _aws():
        copy = [command, "s3", "cp", "--only-show-errors", "--endpoint-url", endpoint, "--region", "us-east-1"]
        address = f"s3://{_BUCKET}/aws"
        ways["aws s3 cp", "put"] = _Way(lambda: subprocess.run([*copy, source, address], check=True), absent("aws"))
        ways["aws s3 cp", "get"] = _Way(lambda: subprocess.run([*copy, address, target], check=True))
    return ways


def _time_in_turns(ways: dict[tuple[str, str], _Way]) -> dict[tuple[str, str], list[float]]:
    milliseconds: dict[tuple[str, str], list[float]] = {which: [] for which in ways}
    for turn in range(_REPEATS + 1):
        for which, way in ways.items():
            way.before()
            started = time.perf_counter()
            way.call()
            if turn:  # the first pays what only a first call costs
                milliseconds[which].append((time.perf_counter() - started) * 1e3)
    return milliseconds


def _server(endpoint: str) -> str:
    """Name the server as it names itself."""
    name = httpx.get(endpoint, timeout=5.0).headers.get("server", "one that does not say its name")
    return f"moto on loopback ({name})" if ENDPOINT_VARIABLE not in os.environ else name


def _aws() -> str | None:
    peers = os.environ.get(PEERS_VARIABLE)
    return shutil.which("aws", path=f"{peers}/bin" if peers else None)


@contextmanager
def _endpoint() -> Iterator[str]:
    """Give the address of an S3 server: the one that was named, or one that runs for the block."""
    if named := os.environ.get(ENDPOINT_VARIABLE):
        yield named
        return
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}  # any will do for it
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + _START_WITHIN_S
    while True:
        try:
            httpx.get(url, timeout=5.0)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
