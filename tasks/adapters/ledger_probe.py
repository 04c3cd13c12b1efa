"""What the ledger's database says of itself: version of the tables, clock, encryption, how long a question takes."""

import time
from dataclasses import dataclass

from sqlalchemy import text

from tasks.adapters.ledger_database import LedgerDatabase
from tasks.adapters.ledger_schema import VERSIONS, schema_version


@dataclass(frozen=True)
class LedgerFacts:
    """A database that answers."""

    address: str
    """Without its password."""
    version: str | None
    """Of the tables; None where there are none yet."""
    wanted: str
    """The version that this program reads and writes."""
    round_trip_ms: float
    clock_offset_s: float | None = None
    """The database's clock minus this host's; None for a file."""
    encrypted: bool | None = None
    """Whether the connection is; None for a file."""


def probe_ledger(url: str) -> LedgerFacts:
    """Ask the database, and change nothing in it.

    Raises:
        UserError: it refuses user, password or database, or the URL is wrong.
        ServiceUnavailableError: it does not answer.
    """
    database = LedgerDatabase(url)
    if database.file is not None and not database.file.exists():
        return LedgerFacts(database.address, None, VERSIONS[-1], 0.0)
    version = schema_version(database)
    with database.reading() as connection:
        began = time.time()
        if not database.is_postgresql:
            connection.execute(text("SELECT 1"))
            return LedgerFacts(database.address, version, VERSIONS[-1], 1000 * (time.time() - began))
        there = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        ended = time.time()
        query = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        encrypted = bool(connection.execute(query).scalar())
    offset_s = there - (began + ended) / 2
    return LedgerFacts(database.address, version, VERSIONS[-1], 1000 * (ended - began), offset_s, encrypted)
