"""A cache hit and the garbage collector's mark in a store with many stage records, by where the ledger lies."""

import hashlib
import importlib
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from pydantic import SecretStr

from benchmarks.result import Figure, figure
from benchmarks.stage_cache import cached
from tasks.contracts.artifact import ArtifactRef, artifact_key, record_key
from tasks.runtime.services import Services, connect
from tasks.runtime.settings import current_settings
from tasks.stages.collecting import collect_garbage

_NUM_HITS = 50
_KEEP_DAYS = 30.0


def record_figures(records: Sequence[int]) -> Iterator[Figure]:
    """Time a hit and the mark at each number of records in a folder; PostgreSQL's part where a server is installed."""
    services = connect()
    time_hits(_artifact(services))  # computes them
    template = _template(services)
    for number in records:
        _fill(services, template, number)
        subject = f"{number:,} records, local folder"
        yield figure("a cache hit", "ms", time_hits(_artifact(services)), subject=subject)
        begun = time.perf_counter()
        collect_garbage(services, _KEEP_DAYS, datetime.now(UTC))
        yield figure("the garbage collector's mark", "s", [time.perf_counter() - begun], subject=subject)
    yield from _postgres_figures(records)


def _postgres_figures(records: Sequence[int]) -> Iterator[Figure]:
    """Time what PostgreSQL adds to a hit: finding which record is the stage's, and the lock around it."""
    tests = importlib.import_module("tests.postgres_server")
    if tests.why_missing():
        return
    server = tests.PostgresServer()
    try:
        url = server.database()
        services = connect(current_settings().model_copy(update={"ledger_url": SecretStr(url)}))
        key = _key(0)
        with services.locks.hold(key):
            pass  # makes the tables
        for number in records:
            rows = f"SELECT 'filler/' || n, md5(n::text), now() FROM generate_series(1, {number}) AS n"  # noqa: S608
            server.query(url, f"INSERT INTO stage_records {rows} ON CONFLICT DO NOTHING")
            subject = f"{number:,} records, PostgreSQL"
            yield figure("place of the record", "ms", [_ms(services, key) for _ in range(_NUM_HITS)], subject=subject)
            yield figure("lock and unlock", "ms", [_lock_ms(services, key) for _ in range(_NUM_HITS)], subject=subject)
    finally:
        server.stop()


def _ms(services: Services, key: str) -> float:
    begun = time.perf_counter()
    services.commits.place(key)
    return (time.perf_counter() - begun) * 1e3


def _lock_ms(services: Services, key: str) -> float:
    begun = time.perf_counter()
    services.locks.acquire(key).release()
    return (time.perf_counter() - begun) * 1e3


@flow(persist_result=False)
def time_hits(artifact: ArtifactRef) -> list[float]:
    """Return the milliseconds of stages: computed in the first such flow, cached in later ones."""
    cached(_NUM_HITS, artifact)  # what only the first call costs
    milliseconds = []
    for number in range(_NUM_HITS):
        begun = time.perf_counter()
        cached(number, artifact)
        milliseconds.append((time.perf_counter() - begun) * 1e3)
    return milliseconds


def _artifact(services: Services) -> ArtifactRef:
    return services.artifacts.put(b"what every timed record names")


def _template(services: Services) -> tuple[str, str, str]:
    """Return folder, text and named digest of a real record."""
    root = services.settings.store_root
    path = next((root / "stages").rglob("*.json"))
    return str(path.parent.relative_to(root / "stages")), path.read_text(), _artifact(services).digest


def _fill(services: Services, template: tuple[str, str, str], number: int) -> None:
    """Add copies of the record under other keys, with artifacts of their own, until there are so many."""
    folder, text, digest = template
    root = services.settings.store_root
    there = sum(1 for _ in (root / "stages" / folder).glob("*.json"))
    for position in range(there, number):
        data = json.dumps({"filler": position}).encode()
        other = hashlib.sha256(data).hexdigest()
        _write(root / artifact_key(other), data)
        _write(root / record_key(f"{folder}/{_key(position)}"), text.replace(digest, other).encode())


def _write(path: Path, data: bytes) -> None:
    """Write without waiting for the disk, which records of the product do; these only have to be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _key(position: int) -> str:
    return hashlib.sha256(f"filler {position}".encode()).hexdigest()
