"""The most memory of one process that puts or gets one object: `python -m benchmarks.store_memory WAY DIRECTION ...`.

A process each, since the kernel keeps the peak of a process for as long as it lives.
"""

import subprocess
import sys
from pathlib import Path

import boto3

from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_connection import S3Options, make_client
from tasks.adapters.s3_store import S3Artifacts
from tasks.contracts.object_place import ObjectPlace

_PREFIX = "memory/"


def added_bytes(way: str, direction: str, endpoint: str, bucket: str, source: Path) -> float:
    """Return by how many bytes the peak of a process grows when it puts or gets the file's bytes.

    Args:
        way: `store` or `boto3`.
        direction: `put` or `get`; what is got was put by the same way before.
        endpoint: of the server.
        bucket: on it.
        source: the file whose bytes are put; another beside it is written by `boto3 get`.
    """
    command = [sys.executable, "-m", "benchmarks.store_memory", way, direction, endpoint, bucket, str(source)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(said)


def _main(way: str, direction: str, endpoint: str, bucket: str, source: Path) -> None:
    call = _store if way == "store" else _boto3
    make_client(S3Options(endpoint=endpoint, region="us-east-1")).head_bucket(Bucket=bucket)  # imports all there is
    before = _peak_bytes()
    call(direction, endpoint, bucket, source)
    print(_peak_bytes() - before)


def _store(direction: str, endpoint: str, bucket: str, source: Path) -> None:
    place = ObjectPlace(bucket=bucket, prefix=_PREFIX)
    artifacts = S3Artifacts(Bucket(place, S3Options(endpoint=endpoint, region="us-east-1"), "the benchmark"))
    named = source.with_suffix(".digest")
    if direction == "put":
        named.write_text(artifacts.put(source.read_bytes()).digest)
    else:
        artifacts.get(named.read_text())


def _boto3(direction: str, endpoint: str, bucket: str, source: Path) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    if direction == "put":
        client.upload_file(str(source), bucket, f"{_PREFIX}boto3")
    else:
        client.download_file(bucket, f"{_PREFIX}boto3", str(source.with_suffix(".got")))


def _peak_bytes() -> int:
    """Ask Linux: what `getrusage` tells began with the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    way, direction, endpoint, bucket, source = sys.argv[1:]
    _main(way, direction, endpoint, bucket, Path(source))
