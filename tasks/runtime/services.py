"""The outside as small protocols, and the one place that connects them.

Algorithms take what they need from here as arguments; only `connect` knows which adapter it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.model import EpochRecord, UsageSample
from tasks.contracts.monitoring import Announcement
from tasks.contracts.traffic_retention import Pruned
from tasks.contracts.value import Digest
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.log_retention import Limits
from tasks.runtime.once import once
from tasks.runtime.placement import LocalPlacement, Placement
from tasks.runtime.settings import Settings, current_settings
from tasks.runtime.warm_processes import WarmProcesses


@runtime_checkable
class ArtifactStore(Protocol):
    """Content-addressed blobs. Writes are atomic, reads verify the digest."""

    def put(self, data: bytes) -> ArtifactRef:
        """Store `data` under its digest; storing the same bytes again is a cheap no-op.

        Raises:
            InfrastructureError: the store cannot be written (full, unreachable); nothing partial is left.
        """
        ...

    def get(self, digest: Digest) -> bytes:
        """Return the blob.

        Raises:
            ArtifactMissingError: no such blob.
            ArtifactCorruptError: the stored bytes do not match the digest.
        """
        ...

    def contains(self, digest: Digest) -> bool:
        """Tell whether the blob is there and whole."""
        ...


@dataclass(frozen=True)
class Document:
    """One version of a named document; versions count from 1."""

    version: int
    data: bytes


class DocumentStore(Protocol):
    """Named documents with every version kept; appending is compare-and-set."""

    def latest(self, name: str) -> Document | None:
        """Return the newest version of the document called `name`, or None."""
        ...

    def append(self, name: str, data: bytes, expected_version: int) -> Document:
        """Write version `expected_version + 1`.

        Raises:
            DocumentConflictError: that version exists already.
        """
        ...

    def names(self, prefix: str = "") -> list[str]:
        """List the names of all documents whose name starts with `prefix`, sorted."""
        ...


class CheckpointStore(Protocol):
    """The last checkpoint of an iterative stage; overwritten atomically, removed when the stage is done."""

    def save(self, stage_key: str, data: bytes) -> None:
        """Replace the stage's checkpoint."""
        ...

    def load(self, stage_key: str) -> bytes | None:
        """Return the stage's checkpoint, or None if there is none or it is damaged."""
        ...

    def clear(self, stage_key: str) -> None:
        """Remove the stage's checkpoint, if any."""
        ...


class RecordStore(Protocol):
    """Small mutable records by key: which result a stage had."""

    def read(self, key: str) -> bytes | None:
        """Return the record, or None."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Replace the record, atomically."""
        ...


@dataclass(frozen=True)
class StoredFile:
    """One file or object of a store."""

    key: str
    """Relative to the store's root."""
    size_bytes: int
    modified: datetime


class StoreFiles(Protocol):
    """What lies in a store, as files with an age: for collecting what nothing names any more."""

    def entries(self, prefix: str) -> Iterator[StoredFile]:
        """Give the finished files whose keys begin with `prefix`, which ends with a slash."""
        ...

    def touch(self, key: str) -> None:
        """Make a file young whose time is more than half a day back, if it is there: somebody rests on it again."""
        ...

    def remove(self, key: str, older_than: datetime) -> bool:
        """Remove a file if it is older than that at this moment; return whether it was."""
        ...


class Acknowledgements(Protocol):
    """The last word of every gateway on the route of a model."""

    def read(self, model_name: str) -> Mapping[str, bytes]:
        """Return what each gateway wrote, by the place where it lies."""
        ...


class TrafficFiles(Protocol):
    """The prediction log: where its segments can be read, and how old hours of it are removed."""

    @property
    def place(self) -> str:
        """Where the log lies, for messages."""
        ...

    def folder(self, model_name: str | None = None, since: datetime | None = None) -> Path:
        """Return a local folder that holds the log as it is now, in the layout in which gateways write it.

        Args:
            model_name: Whose log is wanted; that of all models if None.
            since: First moment that is wanted (UTC); hours before it may be missing.

        Raises:
            InfrastructureError: the log cannot be read.
        """
        ...

    def models(self) -> list[str]:
        """Return the models that have a log, sorted."""
        ...

    def prune(self, model_name: str, limits: Limits, *, dry_run: bool = False) -> Pruned:
        """Remove the model's hours beyond `limits`, whole ones only.

        Raises:
            InfrastructureError: an hour cannot be removed.
        """
        ...


class StageCommits(Protocol):
    """Which record of the record store is a stage's; beside it there may be those of workers that lost the stage."""

    def place(self, stage_key: str) -> str:
        """Return the key of the stage's record; nothing may lie there."""
        ...

    def new_place(self, stage_key: str) -> str:
        """Return the key under which this worker is to write the stage's record.

        Raises:
            LockLostError: this process does not hold the stage's lock.
        """
        ...

    def commit(self, stage_key: str, place: str) -> None:
        """Make the record at `place`, which is written, the stage's.

        Raises:
            LockLostError: another holds the stage's lock by now; the record is not the stage's.
        """
        ...


class OneRecord:
    """The only record of a stage is its own: its lock cannot be lost while its worker lives."""

    def place(self, stage_key: str) -> str:
        """See `StageCommits.place`."""
        return stage_key

    def new_place(self, stage_key: str) -> str:
        """See `StageCommits.new_place`."""
        return stage_key

    def commit(self, stage_key: str, place: str) -> None:
        """See `StageCommits.commit`."""


class Ledger(Protocol):
    """Append-only record of who is champion, and of every tick of a rollout."""

    def champion(self, model_name: str) -> LedgerEntry | None:
        """Return the newest entry of the model, or None."""
        ...

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """Append `entry` if `entry.expected_champion` still is the champion; idempotent.

        `entry.sequence` is ignored on the way in and set on the way out. An entry of the same
        (model name, candidate, gate report) that is already there is returned as it stands.

        Raises:
            StaleChampionError: another candidate became champion meanwhile.
        """
        ...

    def history(self, model_name: str) -> list[LedgerEntry]:
        """Return all entries of the model, oldest first."""
        ...

    def latest_tick(self, model_name: str) -> tuple[str, int, bytes] | None:
        """Return (rollout id, tick number, state as JSON) of the model's newest rollout tick, or None."""
        ...

    def append_tick(self, model_name: str, rollout_id: str, tick: int, state: bytes) -> None:
        """Record the state after tick number `tick` (0 is the start).

        Raises:
            DocumentConflictError: that tick exists already with another state.
        """
        ...

    def ticks(self, rollout_id: str) -> list[bytes]:
        """Return the states of a rollout, oldest first."""
        ...

    def digests(self) -> set[Digest]:
        """Return every artifact that any row names: models, gate reports, and what rollouts compared."""
        ...


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


class Registry(Protocol):
    """The model registry: versions and aliases. Its aliases follow the ledger, never lead it."""

    def find_version(self, name: str, digest: Digest) -> RegisteredVersion | None:
        """Return the version that was registered from the ONNX artifact `digest`, or None."""
        ...

    def register(
        self,
        name: str,
        digest: Digest,
        onnx_model: bytes,
        example: bytes,
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        parent_run_id: str,
        description: str = "",
    ) -> RegisteredVersion:
        """Register an ONNX model once; a second call with the same name and digest returns the first's version.

        `example` is an npz with array `x`, from which the signature is taken; `files` are attached
        beside the model (gate report, HTML report, plan) by their relative path, and `description` is what
        its page says first.
        """
        ...

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point `alias` to `version`."""
        ...

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove `alias`, if it is there."""
        ...

    def version_of(self, name: str, alias: str) -> RegisteredVersion | None:
        """Return the version that `alias` points to, or None."""
        ...

    def version(self, name: str, version: int) -> RegisteredVersion:
        """Return one version.

        Raises:
            ModelError: there is none.
        """
        ...

    def names(self) -> list[str]:
        """List the registered models."""
        ...

    def versions(self, name: str) -> list[RegisteredVersion]:
        """List all versions of a model, oldest first."""
        ...


class Tracker(Protocol):
    """Experiment tracking: a parent run per flow run, a child run per stage, never duplicated."""

    def parent_run(self, experiment: str, flow_run_id: str, name: str, params: Mapping[str, str]) -> str:
        """Find or create the run tagged with the flow run's id; return its run id."""
        ...

    def stage_run(
        self,
        experiment: str,
        parent_run_id: str,
        stage_key: str,
        name: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        history: tuple[EpochRecord, ...],
        tags: Mapping[str, str],
        usage: tuple[UsageSample, ...] = (),
    ) -> str:
        """Find or create the finished run of a stage, by its key; return its run id.

        The first flow run that records a stage becomes its parent; later ones find it.
        """
        ...

    def finish_parent(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
        status: str,
    ) -> None:
        """Log the outcome on the parent run and end it as `status` (FINISHED or FAILED)."""
        ...

    def flow_run_of(self, run_id: str) -> str | None:
        """Return the flow run that a run of the tracker belongs to; None if there is no such run, or it names none."""
        ...


class Lock(Protocol):
    """A lock that this process took."""

    @property
    def is_lost(self) -> bool:
        """Whether this process knows by now that another took it over."""
        ...

    def require(self) -> None:
        """Make sure that it still is this process's.

        Raises:
            LockLostError: another took it over, because its holder could not be reached for too long.
        """
        ...

    def release(self) -> None:
        """Give it back; a lock that was lost is let go in peace."""
        ...


class Locks(Protocol):
    """Mutual exclusion by name; a holder that dies, however it dies, is followed by the next within seconds.

    Locks of several hosts can be lost: a host that is cut off cannot keep the others waiting for ever. What is
    written to the ledger while `hold` lasts, and the record of a stage, are therefore refused once the lock is lost.
    """

    def __hash__(self) -> int:
        """Locks are told apart by identity."""
        ...

    @property
    def dead_after_s(self) -> float:
        """For how long a lock stays taken whose holder died; waiting so long tells a dead holder from a living one."""
        ...

    def acquire(self, name: str, *, timeout_s: float | None = None) -> Lock:
        """Wait for the lock, for ever or for `timeout_s` (0: not at all), and take it.

        Raises:
            LockTakenError: another still holds it; the message says who.
        """
        ...

    def hold(self, name: str, *, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """As `acquire`, for the length of a `with` block.

        Raises:
            LockLostError: at the block's end, where the lock was lost meanwhile.
        """
        ...

    def is_taken(self, name: str) -> bool:
        """Tell whether anybody holds the lock."""
        ...


def stage_lock(stage_key: str) -> str:
    """Return the name of the lock under which a stage is computed and its record written."""
    return f"stage/{stage_key}"


class Events(Protocol):
    """Where events go. An event that is sent twice under one id counts once."""

    def send(self, announcements: Sequence[Announcement]) -> bool:
        """Send them all; return False, and send none, where no server is addressed.

        Raises:
            ServiceUnavailableError: the server does not answer; none may have arrived.
        """
        ...


class NoEvents:
    """For a process without an event server."""

    def send(self, announcements: Sequence[Announcement]) -> bool:
        """Send nothing."""
        return False


@dataclass(frozen=True)
class Services:
    """Everything outside that tasks use. Members that cost an import are made on first use."""

    settings: Settings
    artifacts: ArtifactStore
    documents: DocumentStore
    checkpoints: CheckpointStore
    records: RecordStore
    acknowledgements: Acknowledgements
    files: StoreFiles
    traffic: TrafficFiles
    locks: Locks
    """Among all who share the ledger and the store, on whatever host."""
    host_locks: Locks
    """Among the processes of this host, for what each host has of its own: its processors and its checkouts."""
    make_ledger: Callable[[], Ledger]
    make_registry: Callable[[], Registry]
    make_tracker: Callable[[], Tracker]
    make_events: Callable[[], Events] = NoEvents
    commits: StageCommits = field(default_factory=OneRecord)
    """Of stages, under the locks."""
    make_placement: Callable[[], Placement] = LocalPlacement

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.make_ledger()

    @property
    def registry(self) -> Registry:
        """The model registry."""
        return self.make_registry()

    @property
    def tracker(self) -> Tracker:
        """The experiment tracker."""
        return self.make_tracker()

    @property
    def events(self) -> Events:
        """Where events go."""
        return self.make_events()

    @property
    def placement(self) -> Placement:
        """Where stages run."""
        return self.make_placement()


@once
def connect(settings: Settings | None = None) -> Services:
    """Build the services that `settings` (default: the environment) name. The one composition root."""
    from tasks.adapters.locks import FileLocks

    settings = settings or current_settings()
    shared = _shared(settings)

    @once
    def ledger() -> Ledger:
        from tasks.adapters.ledger import SqlLedger

        return SqlLedger(settings.ledger_address, shared.fence)

    @once
    def registry() -> Registry:
        from tasks.adapters.mlflow_registry import MlflowRegistry

        return MlflowRegistry(settings, shared.locks)

    @once
    def tracker() -> Tracker:
        from tasks.adapters.mlflow_tracking import MlflowTracker

        return MlflowTracker(settings, shared.locks)

    @once
    def events() -> Events:
        from tasks.adapters.prefect_events import PrefectEvents

        return PrefectEvents(settings)

    @once
    def placement() -> Placement:
        if settings.execution == "local":
            return LocalPlacement(FileLocks(settings.home / "locks"), WarmProcesses())
        from tasks.adapters.ray_placement import RayPlacement

        return RayPlacement(settings)

    return Services(
        settings=settings,
        **_stores(settings),
        traffic=_traffic(settings),
        locks=shared.locks,
        host_locks=FileLocks(settings.home / "locks"),
        make_ledger=ledger,
        make_registry=registry,
        make_tracker=tracker,
        make_events=events,
        make_placement=placement,
        commits=shared.commits,
    )


class _Stores(TypedDict):
    artifacts: ArtifactStore
    documents: DocumentStore
    checkpoints: CheckpointStore
    records: RecordStore
    acknowledgements: Acknowledgements
    files: StoreFiles


def _stores(settings: Settings) -> _Stores:
    place = settings.store_place
    if place is None:
        from tasks.adapters import local_store

        root: Path = settings.store_root
        return {
            "artifacts": local_store.LocalArtifacts(root, settings.store_compression),
            "documents": local_store.LocalDocuments(root),
            "checkpoints": local_store.LocalCheckpoints(root),
            "records": local_store.LocalRecords(root),
            "acknowledgements": local_store.LocalAcknowledgements(root),
            "files": local_store.LocalFiles(root),
        }
    from tasks.adapters import s3_store
    from tasks.adapters.s3_bucket import Bucket
    from tasks.adapters.s3_connection import S3Options

    bucket = Bucket(place, S3Options.of(settings), "STILLHOUSE_STORE_URL")
    return {
        "artifacts": s3_store.S3Artifacts(bucket, settings.store_compression),
        "documents": s3_store.S3Documents(bucket),
        "checkpoints": s3_store.S3Checkpoints(bucket),
        "records": s3_store.S3Records(bucket),
        "acknowledgements": s3_store.S3Acknowledgements(bucket),
        "files": s3_store.S3Files(bucket),
    }


def _traffic(settings: Settings) -> TrafficFiles:
    place = settings.traffic_place
    if place is None:
        from tasks.adapters.local_traffic import LocalTraffic

        return LocalTraffic(settings.traffic_root)
    from tasks.adapters.s3_bucket import Bucket
    from tasks.adapters.s3_connection import S3Options
    from tasks.adapters.s3_traffic import S3Traffic

    bucket = Bucket(place, S3Options.of(settings), "STILLHOUSE_TRAFFIC_URL")
    return S3Traffic(bucket, settings.home / "traffic-copy")


@dataclass(frozen=True)
class _Shared:
    """What has to be exact among all who share a ledger."""

    locks: Locks
    commits: StageCommits
    fence: Callable[[Any], None] | None
    """Called with the connection of every write to the ledger; it raises where the caller's locks were lost."""


def _shared(settings: Settings) -> _Shared:
    """Choose by the ledger: where it lies in PostgreSQL several hosts may use it, and the locks lie beside it."""
    if not settings.ledger_is_shared:
        from tasks.adapters.locks import FileLocks

        return _Shared(FileLocks(settings.store_root / "locks"), OneRecord(), None)
    from tasks.adapters.lease_locks import LEASE_S, LeaseLocks
    from tasks.adapters.lease_rows import LeaseRows
    from tasks.adapters.ledger_database import LedgerDatabase
    from tasks.adapters.stage_commits import LeasedCommits

    database = LedgerDatabase(settings.ledger_address)
    locks = LeaseLocks(LeaseRows(database, LEASE_S))
    return _Shared(locks, LeasedCommits(database, locks), locks.pin_held)
