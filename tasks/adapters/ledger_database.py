"""The database of the ledger: how it is connected, and what its errors mean.

SQLite is the embedded default, for one host. PostgreSQL is what several hosts share; their locks lie in it too.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from tasks.contracts.addresses import shown, without_secrets
from tasks.contracts.errors import InfrastructureError, ServiceUnavailableError, UserError

R = TypeVar("R")

_BUSY_TIMEOUT_MS = 20_000
_POSTGRES_DRIVER = "postgresql+psycopg"
_FORM = (
    f"write it as sqlite:////folder/ledger.db or {_POSTGRES_DRIVER}://user:password@host/database, with %40 for an @, "
    "%3A for a : and %2F for a / in the password"
)
_POSTGRES_DEFAULTS: dict[str, Any] = {
    "application_name": "stillhouse",
    "connect_timeout": 5,
    # a peer that is cut off is noticed within 20 s on either side of a silence, not after TCP's quarter of an hour
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    # of several hosts in the URL, the one that can be written; a demoted primary is refused
    "target_session_attrs": "read-write",
}
"""What libpq is told unless the URL says otherwise."""
_IDLE_LIMIT_S = 10
"""A process that freezes within a transaction keeps its rows locked for so long; then the server ends it."""
_OVERTAKEN_STATES = {"23505", "40001", "40P01"}
"""Unique key taken, serialisation failure, deadlock: another writer was first, and looking again helps."""
_REFUSED_CLASSES = {"28", "3D", "42"}
"""Wrong user or password, no such database, no right to do this: waiting does not help."""


class Overtaken(Exception):  # noqa: N818 - a signal between the adapters of this database
    """Another writer was first."""


class LedgerDatabase:
    """Connections to one database by its SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        """Prepare to connect; nothing is opened yet.

        Raises:
            UserError: the URL cannot be parsed, or its driver is not supported or not installed.
        """
        parsed = _parsed(url)
        self.address = shown(url)
        self._url = url
        self.is_postgresql = parsed.get_backend_name() == "postgresql"
        self.file = None if self.is_postgresql or not parsed.database else Path(parsed.database)
        self.engine = _postgres_engine(parsed) if self.is_postgresql else _sqlite_engine(parsed)
        self._statements = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Connect to read."""
        with self.errors("read"), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Connect within one transaction.

        Raises:
            Overtaken: another writer was first; nothing was written.
        """
        with self.errors("write"), self.engine.begin() as connection:
            if self.is_postgresql:
                connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_LIMIT_S}s'"))
            yield connection

    @contextmanager
    def stating(self) -> Iterator[Connection]:
        """Connect for single statements, each of them a transaction of its own."""
        with self.errors("write"), self._statements.connect() as connection:
            yield connection

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn database errors into ours; the address is shown without its password."""
        remedy = f"the ledger {self.address} (STILLHOUSE_LEDGER_URL)"
        try:
            yield
        except DBAPIError as error:
            cause = without_secrets(str(error.orig).strip(), self._url)
            state = getattr(error.orig, "sqlstate", None) or ""
            if state in _OVERTAKEN_STATES or _is_unique_key_of_sqlite(error):
                raise Overtaken(cause) from error
            if state[:2] in _REFUSED_CLASSES:
                raise UserError(
                    f"cannot {doing} {remedy}, which refuses: {cause}. Check user, password, database and rights; "
                    "docs/operations.md lists the rights."
                ) from error
            if "full" in cause or "No space" in cause:
                raise InfrastructureError(f"cannot {doing} {remedy}: {cause}. Free space on its disk.") from error
            raise ServiceUnavailableError(
                f"cannot {doing} {remedy}: {cause}. Check that the database runs, is writable and is not held by "
                "another program, or set STILLHOUSE_LEDGER_URL to one that is."
            ) from error
        except (SQLAlchemyError, OSError) as error:
            cause = without_secrets(str(error), self._url)
            raise ServiceUnavailableError(f"cannot {doing} {remedy}: {cause}") from error


def patiently(work: Callable[[], R], patience_s: float) -> R:
    """Do what can be repeated, again and again while the database is away, for at most `patience_s`.

    Raises:
        ServiceUnavailableError: it is away for longer.
    """
    deadline, pause_s = time.monotonic() + patience_s, 0.2
    while True:
        try:
            return work()
        except ServiceUnavailableError:
            if time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, guards nothing
        pause_s = min(2.0, 1.5 * pause_s)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number, often because of a "@" or ":" in the password
        raise UserError(f"STILLHOUSE_LEDGER_URL is not a SQLAlchemy URL; {_FORM}") from None
    if "@" in (parsed.host or ""):
        raise UserError(f"STILLHOUSE_LEDGER_URL has an @ too many; {_FORM}")
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername=_POSTGRES_DRIVER)
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", _POSTGRES_DRIVER):
        raise UserError(f"STILLHOUSE_LEDGER_URL asks for {parsed.drivername} ({shown(url)}); {_FORM}")
    return parsed


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _use_write_ahead_log)
    return engine


def _postgres_engine(url: URL) -> Engine:
    arguments = {name: value for name, value in _POSTGRES_DEFAULTS.items() if name not in url.query}
    try:
        return create_engine(
            url,
            isolation_level="READ COMMITTED",
            pool_size=2,
            pool_pre_ping=True,
            # prepared statements belong to a session, which a pooler hands to another client after each transaction
            connect_args=arguments | {"prepare_threshold": None},
        )
    except (ImportError, NoSuchModuleError) as error:
        raise UserError(
            f"the driver of the ledger {shown(url.render_as_string(hide_password=True))} cannot be imported ({error}); "
            "install it by `pip install 'stillhouse[production]'`, or set STILLHOUSE_LEDGER_URL to another database"
        ) from error


def _use_write_ahead_log(connection: Any, _record: object) -> None:
    """Let readers go on while one process writes; the mode is kept in the file."""
    connection.execute("PRAGMA journal_mode=WAL")


def _is_unique_key_of_sqlite(error: DBAPIError) -> bool:
    return isinstance(error, IntegrityError) and "UNIQUE constraint failed" in str(error.orig)
