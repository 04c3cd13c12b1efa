"""The stage cache: what the key is made of, when a record counts as a hit, and who computes a miss.

Key = what goes in (by digest) + the spec + the source that is executed + the versions of the engines.
A hit counts only if every artifact that the record names is there and whole. Misses are computed by
one holder of the stage's lock at a time, also across processes; the others then find the record.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.transactions import get_transaction

from tasks.contracts.artifact import record_key
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import ArtifactMissingError, LockTakenError
from tasks.contracts.evaluation import Quality, Timing, TimingTable
from tasks.contracts.model import ModelRef, StageResult
from tasks.contracts.value import Value, sha256_hex
from tasks.runtime.locking import Lock, stage_lock
from tasks.runtime.services import connect
from tasks.runtime.source import engine_versions, source_digest

Sources = Callable[[Mapping[str, Any]], list[str]]
"""From a task's inputs to the names of the modules that it executes."""


def stage_key(task_name: str, inputs: Mapping[str, Any], modules: list[str]) -> str:
    """Return the cache key of one stage: `<task name>/<sha256>`."""
    executed = executed_by(inputs, modules)
    document = {
        "task": task_name,
        "inputs": {name: identity(value) for name, value in sorted(inputs.items())},
        "source": source_digest(executed),
        "engines": engine_versions(executed),
    }
    return f"{task_name}/{sha256_hex(json.dumps(document, sort_keys=True).encode())}"


def executed_by(inputs: Mapping[str, Any], modules: list[str]) -> list[str]:
    """Return the modules that a stage executes: those of its task, and of the model factories that its inputs name."""
    return [*modules, *_named_modules(inputs)]


def identity(value: Any) -> Any:
    """Reduce an input to what a stage's outcome depends on: results by the digest of their model, and so on."""
    match value:
        case StageResult():
            return identity(value.model)
        case ModelRef():
            return value.digest
        case DatasetRef():
            return value.digest
        case Quality():
            return [value.model, value.split, value.predictions.digest]
        case Timing():
            return value.samples.digest
        case TimingTable():
            return {digest: identity(timing) for digest, timing in sorted(value.models.items())}
        case Value():
            return value.model_dump(mode="json")
        case list() | tuple():
            return [identity(item) for item in value]
        case dict():
            return {str(key): identity(item) for key, item in sorted(value.items())}
        case str() | int() | float() | bool() | None:
            return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a stage key; pass a contract value instead")


def _named_modules(inputs: Mapping[str, Any]) -> list[str]:
    """Find the modules of model factories that the inputs name as `package.module:function`."""
    found: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            found.extend(str(item).partition(":")[0] for key, item in value.items() if key == "factory")
            for item in value.values():
                visit(item)
        elif isinstance(value, list):
            for item in value:
                visit(item)

    visit([identity(value) for value in inputs.values()])
    return found


class StageCachePolicy(CachePolicy):
    """Prefect's policy for cached stages: keys by content and source, one computation at a time."""

    def __init__(self, sources: Sources, ignore: tuple[str, ...] = ()) -> None:
        super().__init__(isolation_level="SERIALIZABLE", lock_manager=StageLocks())
        self._sources = sources
        self._ignore = ignore

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        """Return the stage key of this call."""
        used = self._used(inputs)
        return stage_key(task_ctx.task.name, used, self._sources(used))

    def modules_of(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return the modules that the stage executes on these inputs."""
        used = self._used(inputs)
        return executed_by(used, self._sources(used))

    def _used(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name not in self._ignore}


class StageRecords(WritableFileSystem):
    """Prefect's result storage for stages: records in the shared store that vouch for their artifacts.

    Reading a record whose artifacts are missing or damaged fails; Prefect then takes the stage as not
    cached, while it holds the stage's lock, and computes it anew.
    """

    _block_type_name = "Stillhouse stage records"
    _block_type_slug = "stillhouse-stage-records"

    def _resolve_path(self, path: str) -> None:
        """Tell Prefect that keys are used as they are."""

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override] # declared async, called sync
        """Return the record called `path`.

        Raises:
            ArtifactMissingError: there is none, or an artifact that it names is not there and whole.
        """
        services = connect()
        place = services.commits.place(path)
        services.files.touch(record_key(place))  # before its artifacts are looked for: a young record keeps them
        content = services.records.read(place)
        if content is None:
            raise ArtifactMissingError(f"no record of stage {path}")
        for digest in referenced_artifacts(json.loads(json.loads(content)["result"])):
            if not services.artifacts.contains(digest):
                raise ArtifactMissingError(
                    f"artifact {digest} of stage {path} is missing or damaged; computing it anew"
                )
        return content

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Store a record, atomically, and make it the stage's.

        Raises:
            LockLostError: another worker took the stage over; the record is not the stage's.
        """
        services = connect()
        place = services.commits.new_place(path)
        services.records.write(place, content)
        services.commits.commit(path, place)

    async def aread_path(self, path: str) -> bytes:
        """As `read_path`."""
        return self.read_path(path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """As `write_path`."""
        self.write_path(path, content)


def referenced_artifacts(value: Any) -> set[str]:
    """Collect the digests of all references (`digest` with `size_bytes`) within a record."""
    if isinstance(value, dict):
        here = {value["digest"]} if "digest" in value and "size_bytes" in value else set()
        return here.union(*(referenced_artifacts(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(referenced_artifacts(item) for item in value)) if value else set()
    return set()


class StageLocks:
    """Prefect's lock manager on the locks that the stage's workers share; a holder that dies frees its lock."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, Lock]] = {}
        self._guard = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "StageLocks":
        return self  # prefect copies policies; the locks of a process are one

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copy in another process holds nothing

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Wait for the lock, for ever or for `acquire_timeout` (0: not at all), and hold it for `holder`."""
        if self.is_lock_holder(key, holder):
            return True
        try:
            lock = connect().locks.acquire(stage_lock(key), timeout_s=acquire_timeout)
        except LockTakenError:
            return False
        with self._guard:
            self._held[key] = (holder, lock)
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As `acquire_lock`, off the event loop."""
        return await asyncio.to_thread(self.acquire_lock, key, holder, acquire_timeout, hold_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock back; one that was lost is let go in peace, since Prefect releases within its commit.

        Raises:
            ValueError: `holder` never held it (as Prefect's protocol asks).
        """
        with self._guard:
            held_by, lock = self._held.get(key, ("", None))
            if held_by != holder or lock is None:
                raise ValueError(f"no lock on {key} is held by {holder}")
            del self._held[key]
        lock.release()

    def require(self, key: str, *, ask: bool) -> None:
        """Make sure that this process still holds the lock.

        Args:
            key: of the stage.
            ask: Ask who holds it, instead of going by what is known here.

        Raises:
            LockLostError: another took it over.
        """
        with self._guard:
            _, lock = self._held[key]
        if ask or lock.is_lost:
            lock.require()

    def is_locked(self, key: str) -> bool:
        """Tell whether anybody holds the lock."""
        with self._guard:
            mine = key in self._held
        return mine or connect().locks.is_taken(stage_lock(key))

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Tell whether `holder` took the lock, in this process."""
        with self._guard:
            return key in self._held and self._held[key][0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock; False if somebody still does after `timeout`."""
        try:
            connect().locks.acquire(stage_lock(key), timeout_s=timeout).release()
        except LockTakenError:
            return False
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As `wait_for_lock`, off the event loop."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)


def require_stage_lock(*, ask: bool = True) -> None:
    """Make sure that the running stage still holds its lock; a call without a cache has none to lose.

    Args:
        ask: Ask who holds it, which waits out an outage, instead of going by what is known here.

    Raises:
        LockLostError: another worker took the stage over. Trying again finds what it made.
    """
    transaction = get_transaction()
    if transaction is None or transaction.store is None or not transaction.key:
        return
    locks = transaction.store.lock_manager
    if isinstance(locks, StageLocks):
        locks.require(transaction.key, ask=ask)
