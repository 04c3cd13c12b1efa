"""All that is outside, and the one place that connects it.

Beside this lie the small protocols: `stores`, `bookkeeping`, `locking`, `traffic_files`. Algorithms take what they need
of them as arguments; only `connect` knows which adapter it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from tasks.runtime.bookkeeping import Events, Ledger, NoEvents, Registry, Tracker
from tasks.runtime.locking import Locks
from tasks.runtime.once import once
from tasks.runtime.placement import LocalPlacement, Placement
from tasks.runtime.settings import Settings, current_settings
from tasks.runtime.stores import (
    ArtifactStore,
    CheckpointStore,
    DocumentStore,
    OneRecord,
    RecordStore,
    StageCommits,
    StoreFiles,
)
from tasks.runtime.traffic_files import Acknowledgements, TrafficFiles
from tasks.runtime.warm_processes import WarmProcesses


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
    make_home_placement: Callable[[], Placement] = LocalPlacement

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

    @property
    def home_placement(self) -> Placement:
        """Where those stages run that read or write files of this machine."""
        return self.make_home_placement()


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
    def home_placement() -> Placement:
        # beside a cluster, one stage of a run is made here: no fork server is kept for it
        warm = WarmProcesses() if settings.execution == "local" else None
        return LocalPlacement(FileLocks(settings.home / "locks"), warm)

    @once
    def placement() -> Placement:
        if settings.execution == "local":
            return home_placement()
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
        make_home_placement=home_placement,
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
