"""The append-only ledger in SQL: who is champion and why, and every tick of a rollout.

Only portable SQL: the compare-and-set is a unique key, so it holds on any database and at any
isolation level. SQLite is the embedded default, PostgreSQL the production one.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    NullPool,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import (
    DocumentConflictError,
    InfrastructureError,
    ServiceUnavailableError,
    StaleChampionError,
    UserError,
)
from tasks.contracts.value import Digest, digests_in
from tasks.contracts.verdict import LedgerEntry

_BUSY_TIMEOUT_MS = 20_000
_MAX_ATTEMPTS = 10

_METADATA = MetaData()

_PROMOTIONS = Table(
    "promotions",
    _METADATA,
    Column("model_name", String(63), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("action", String(16), nullable=False),
    Column("candidate", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("gate_report", String(64), nullable=True),
    Column("expected_champion", String(64), nullable=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", String(40), nullable=False),
    # NULLs differ from each other in a unique key, so entries without a gate report are not held by this one
    UniqueConstraint("model_name", "candidate", "gate_report", name="uq_promotions_evidence"),
)

_TICKS = Table(
    "rollout_ticks",
    _METADATA,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("model_name", String(63), nullable=False),
    Column("rollout_id", String(255), nullable=False),
    Column("tick", Integer, nullable=False),
    Column("state", Text, nullable=False),
    UniqueConstraint("rollout_id", "tick", name="uq_rollout_ticks_tick"),
)


class SqlLedger:
    """See `tasks.runtime.services.Ledger`. Rows are inserted and read, never changed."""

    def __init__(self, url: str) -> None:
        """Connect to `url` (a SQLAlchemy URL) and create the tables if they are missing.

        Raises:
            UserError: the URL cannot be parsed, or its driver is not installed.
            InfrastructureError: the database cannot be reached or written.
        """
        parsed = _parsed(url)
        self._address = parsed.render_as_string(hide_password=True)
        with self._errors("open"):
            self._engine = _engine(parsed)
            with _creation_lock(parsed):
                self._create_tables()

    def champion(self, model_name: str) -> LedgerEntry | None:
        """See `Ledger.champion`."""
        with self._errors("read"), self._engine.connect() as connection:
            return _newest(connection, model_name)

    def history(self, model_name: str) -> list[LedgerEntry]:
        """See `Ledger.history`."""
        query = select(_PROMOTIONS).where(_PROMOTIONS.c.model_name == model_name).order_by(_PROMOTIONS.c.sequence)
        with self._errors("read"), self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """See `Ledger.append`.

        An entry without a gate report (bootstrap, rollback) is a repetition only of the newest entry:
        rolling back to the same champion again later is a new event.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                with self._errors("write"), self._engine.begin() as connection:
                    return _append_once(connection, entry)
            except _Overtaken:  # another process took this sequence number: look again who is champion
                continue
        raise InfrastructureError(
            f"{_MAX_ATTEMPTS} other writers were faster at the ledger {self._address} of {entry.model_name}; try again"
        )

    def latest_tick(self, model_name: str) -> tuple[str, int, bytes] | None:
        """See `Ledger.latest_tick`."""
        query = select(_TICKS).where(_TICKS.c.model_name == model_name).order_by(_TICKS.c.position.desc()).limit(1)
        with self._errors("read"), self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else (row["rollout_id"], row["tick"], row["state"].encode())

    def append_tick(self, model_name: str, rollout_id: str, tick: int, state: bytes) -> None:
        """See `Ledger.append_tick`. Recording the same state again does nothing."""
        row = {"model_name": model_name, "rollout_id": rollout_id, "tick": tick, "state": state.decode()}
        try:
            with self._errors("write"), self._engine.begin() as connection:
                connection.execute(insert(_TICKS).values(row))
        except _Overtaken:
            if self._tick(rollout_id, tick) != (model_name, state):
                raise DocumentConflictError(
                    f"tick {tick} of rollout {rollout_id} of {model_name} is in the ledger with another state; "
                    "another process ticks the same rollout. Read the latest tick and go on from there."
                ) from None

    def ticks(self, rollout_id: str) -> list[bytes]:
        """See `Ledger.ticks`."""
        query = select(_TICKS.c.state).where(_TICKS.c.rollout_id == rollout_id).order_by(_TICKS.c.tick)
        with self._errors("read"), self._engine.connect() as connection:
            return [state.encode() for state in connection.execute(query).scalars()]

    def digests(self) -> set[Digest]:
        """See `Ledger.digests`."""
        rows = _PROMOTIONS.c.candidate, _PROMOTIONS.c.gate_report, _PROMOTIONS.c.expected_champion
        with self._errors("read"), self._engine.connect() as connection:
            found = {digest for row in connection.execute(select(*rows)) for digest in row if digest is not None}
            for state in connection.execute(select(_TICKS.c.state)).scalars():
                found |= digests_in(state.encode())
        return found

    def _tick(self, rollout_id: str, tick: int) -> tuple[str, bytes]:
        query = select(_TICKS).where(_TICKS.c.rollout_id == rollout_id, _TICKS.c.tick == tick)
        with self._errors("read"), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one()
        return row["model_name"], row["state"].encode()

    def _create_tables(self) -> None:
        try:
            with self._engine.begin() as connection:
                for table in _METADATA.sorted_tables:
                    connection.execute(CreateTable(table, if_not_exists=True))
        except DBAPIError:
            # PostgreSQL lets two sessions race through IF NOT EXISTS and fails the second: look what is there
            if not set(_METADATA.tables) <= set(inspect(self._engine).get_table_names()):
                raise

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn database errors into ours; the address is shown without its password."""
        remedy = f"the ledger {self._address} (STILLHOUSE_LEDGER_URL)"
        try:
            yield
        except IntegrityError as error:
            raise _Overtaken from error
        except DBAPIError as error:
            cause = str(error.orig).strip()
            if "full" in cause or "No space" in cause:
                raise InfrastructureError(f"cannot {doing} {remedy}: {cause}. Free space on its disk.") from error
            raise ServiceUnavailableError(
                f"cannot {doing} {remedy}: {cause}. Check that the database runs, is writable and is not held by "
                "another program, or set STILLHOUSE_LEDGER_URL to one that is."
            ) from error
        except (SQLAlchemyError, OSError) as error:
            raise ServiceUnavailableError(f"cannot {doing} {remedy}: {error}") from error


class _Overtaken(Exception):  # noqa: N818 - a signal inside this module
    """A unique key is taken: another writer was first."""


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise UserError(
            "STILLHOUSE_LEDGER_URL is not a SQLAlchemy URL; write it as sqlite:////folder/ledger.db "
            "or postgresql+psycopg2://user:password@host/database"
        ) from None


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
        event.listen(engine, "connect", _use_write_ahead_log)
        return engine
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise UserError(
            f"the driver of the ledger {url.render_as_string(hide_password=True)} cannot be imported ({error}); "
            "install it, or set STILLHOUSE_LEDGER_URL to another database"
        ) from error


def _use_write_ahead_log(connection: Any, _record: object) -> None:
    """Let readers go on while one process writes; the mode is kept in the file."""
    connection.execute("PRAGMA journal_mode=WAL")


def _creation_lock(url: URL) -> AbstractContextManager[None]:
    """Keep two processes from switching a new SQLite file to its write-ahead log at once: SQLite fails one of them."""
    if url.get_backend_name() == "sqlite" and url.database:
        return FileLocks(Path(url.database).parent / "locks").hold(f"create {url.database}")
    return nullcontext()


def _append_once(connection: Connection, entry: LedgerEntry) -> LedgerEntry:
    newest = _newest(connection, entry.model_name)
    recorded = _repeated(connection, entry, newest)
    if recorded is not None:
        return recorded
    champion = newest.candidate if newest else None
    if champion != entry.expected_champion:
        raise StaleChampionError(
            f"the champion of {entry.model_name} is {_short(champion)}, not {_short(entry.expected_champion)} as "
            f"expected; {_short(entry.candidate)} was not promoted. Compare it with the new champion and decide anew."
        )
    appended = entry.model_copy(update={"sequence": newest.sequence + 1 if newest else 1})
    connection.execute(insert(_PROMOTIONS).values(appended.model_dump()))
    return appended


def _repeated(connection: Connection, entry: LedgerEntry, newest: LedgerEntry | None) -> LedgerEntry | None:
    """Return the row that this entry repeats, if there is one."""
    if entry.gate_report is None:
        same = newest is not None and _event(newest) == _event(entry)
        return newest if same else None
    query = select(_PROMOTIONS).where(
        _PROMOTIONS.c.model_name == entry.model_name,
        _PROMOTIONS.c.candidate == entry.candidate,
        _PROMOTIONS.c.gate_report == entry.gate_report,
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _entry(row)


def _event(entry: LedgerEntry) -> tuple[str, Digest, Digest | None, Digest | None]:
    return entry.action, entry.candidate, entry.gate_report, entry.expected_champion


def _newest(connection: Connection, model_name: str) -> LedgerEntry | None:
    highest = select(func.max(_PROMOTIONS.c.sequence)).where(_PROMOTIONS.c.model_name == model_name).scalar_subquery()
    query = select(_PROMOTIONS).where(_PROMOTIONS.c.model_name == model_name, _PROMOTIONS.c.sequence == highest)
    row = connection.execute(query).mappings().first()
    return None if row is None else _entry(row)


def _entry(row: RowMapping) -> LedgerEntry:
    return LedgerEntry.model_validate(dict(row))


def _short(digest: Digest | None) -> str:
    return digest[:12] if digest else "none"
