"""The version of the ledger's tables, and the migrations from one to the next (Alembic).

An SQLite ledger and an empty database are brought to this program's version when they are opened. A PostgreSQL
ledger is migrated by command: programs of the older version that still run refuse it from then on.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from tasks.adapters import ledger_migrations
from tasks.adapters.ledger_database import LedgerDatabase
from tasks.adapters.ledger_tables import PROMOTIONS
from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import LedgerSchemaError

VERSIONS = ("0001", "0002", "0003", "0004")
"""All versions that this program knows, oldest first; the last is the one that it reads and writes."""
VERSION_TABLE = "stillhouse_schema"
"""Not Alembic's default: MLflow and Prefect keep theirs under that name."""
_MIGRATION_LOCK = 0x5711_1405
"""Key of PostgreSQL's advisory lock under which one process at a time migrates; any constant of our own."""


def open_ledger(database: LedgerDatabase) -> None:
    """Make sure that the tables are there in this program's version.

    Raises:
        LedgerSchemaError: they are of a newer version, or of an older one that a command has to migrate.
        ServiceUnavailableError: the database cannot be reached or written.
    """
    if database.is_postgresql:
        found = schema_version(database)
        if found != VERSIONS[-1]:
            _require_known(database, found)
            _require_empty(database, found)
            migrate(database)
        return
    if database.file is not None:
        with database.errors("open"):
            database.file.parent.mkdir(parents=True, exist_ok=True)
    migrate(database)


def migrate(database: LedgerDatabase) -> tuple[str | None, str]:
    """Bring the tables to this program's version; return the version before and after. One process at a time.

    A migration that is cut off leaves nothing behind: it is one transaction, in SQLite too.

    Raises:
        LedgerSchemaError: the tables are of a newer version.
    """
    if database.file is None:
        return _migrate(database)
    # two processes that switch a new SQLite file to its write-ahead log at once fail each other
    with FileLocks(database.file.parent / "locks").hold(f"create {database.file}"):
        return _migrate(database)


def _migrate(database: LedgerDatabase) -> tuple[str | None, str]:
    found = schema_version(database)
    if found == VERSIONS[-1]:
        return found, found
    _require_known(database, found)
    with database.errors("migrate"), database.engine.connect() as connection:
        if database.is_postgresql:
            with connection.begin():
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                _upgrade(connection)
        else:
            # Python's driver begins no transaction for CREATE TABLE by itself
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            with connection.begin():
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                _upgrade(connection)
                connection.exec_driver_sql("COMMIT")
    return found, VERSIONS[-1]


def _upgrade(connection: Connection) -> None:
    """Run what is missing, within the connection's transaction."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(ledger_migrations.__path__[0])))
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "script": scripts,
            "fn": lambda current, _context: scripts._upgrade_revs(VERSIONS[-1], current),
        },
    )
    with Operations.context(context):
        context.run_migrations()


def schema_version(database: LedgerDatabase) -> str | None:
    """Return the version of the tables; None where there is none yet."""
    with database.errors("open"), database.engine.connect() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
        return None if found is None else str(found)


def _require_known(database: LedgerDatabase, found: str | None) -> None:
    if found is not None and found not in VERSIONS:
        raise LedgerSchemaError(
            f"the ledger {database.address} has tables of version {found}; this program knows versions up to "
            f"{VERSIONS[-1]}. Install a newer Stillhouse here, or set STILLHOUSE_LEDGER_URL to another ledger."
        )


def _require_empty(database: LedgerDatabase, found: str | None) -> None:
    with database.errors("open"), database.engine.connect() as connection:
        is_new = found is None and not inspect(connection).has_table(PROMOTIONS.name)
    if not is_new:
        raise LedgerSchemaError(
            f"the ledger {database.address} has tables of version {found or 'none'}, and this program needs version "
            f"{VERSIONS[-1]}. Call `stillhouse ledger migrate` once every older program that writes to it has ended."
        )
