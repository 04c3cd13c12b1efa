"""Rows of the table of leases: who holds which lock, and until when by the clock of the database.

No host's clock takes part, so it does not matter what it shows. A lease that is over may be taken over; until
somebody does, it still is its holder's, who may renew it: an outage of the database costs nobody a lock that
nobody else wanted.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Interval, Row, TextClause, bindparam, text

from tasks.adapters.ledger_database import LedgerDatabase, Overtaken
from tasks.adapters.ledger_schema import open_ledger
from tasks.contracts.errors import ServiceUnavailableError

_MAX_ATTEMPTS = 10

_UNTIL = "clock_timestamp() + :length"
_IS_OVER = "greatest(leases.expires_at, pg_postmaster_start_time() + :length) <= clock_timestamp()"
"""After a restart of the server every holder has one whole length to renew before anybody may take over."""

_LENGTH = bindparam("length", type_=Interval)

_TAKE = text(
    f"""INSERT INTO leases (name, token, holder, acquired_at, expires_at)
    VALUES (:name, :token, :holder, clock_timestamp(), {_UNTIL})
    ON CONFLICT (name) DO UPDATE
    SET token = excluded.token, holder = excluded.holder, acquired_at = clock_timestamp(), expires_at = {_UNTIL}
    WHERE leases.token = excluded.token OR {_IS_OVER}
    RETURNING token"""  # noqa: S608 - constants
).bindparams(_LENGTH)
_RENEW = text(
    f"UPDATE leases SET expires_at = {_UNTIL} WHERE name = :name AND token = :token RETURNING token"  # noqa: S608
).bindparams(_LENGTH)
_GIVE_BACK = text("DELETE FROM leases WHERE name = :name AND token = :token RETURNING token")
_HOLDER = text(
    f"""SELECT holder, round(extract(epoch FROM clock_timestamp() - acquired_at)) AS held_s
    FROM leases WHERE name = :name AND NOT {_IS_OVER}"""  # noqa: S608 - constants
).bindparams(_LENGTH)
_PIN = text("SELECT 1 FROM leases WHERE name = :name AND token = :token FOR SHARE")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    process: str
    """Host and process id."""
    held_s: int
    """For how long by now."""


class LeaseRows:
    """The table of leases in PostgreSQL. Every call is one statement, and may be repeated."""

    def __init__(self, database: LedgerDatabase, length_s: float) -> None:
        """Prepare to use the table; nothing is opened yet.

        Args:
            database: the ledger's, in PostgreSQL.
            length_s: how long a lease lasts after it was taken or renewed.
        """
        self._unopened = database
        self.length_s = length_s
        self._length = timedelta(seconds=length_s)

    @cached_property
    def _database(self) -> LedgerDatabase:
        open_ledger(self._unopened)
        return self._unopened

    def take(self, name: str, token: str, holder: str) -> bool:
        """Take the lock if it is free, over, or taken under this token already; tell whether that was done."""
        return self._first(_TAKE, {"name": name, "token": token, "holder": holder, "length": self._length}) is not None

    def renew(self, name: str, token: str) -> bool:
        """Let the lease last a whole length from now; False if another has taken the lock over."""
        return self._first(_RENEW, {"name": name, "token": token, "length": self._length}) is not None

    def give_back(self, name: str, token: str) -> bool:
        """Free the lock; False if another has taken it over."""
        return self._first(_GIVE_BACK, {"name": name, "token": token}) is not None

    def holder(self, name: str) -> Holder | None:
        """Return who holds the lock; None if it may be taken."""
        row = self._first(_HOLDER, {"name": name, "length": self._length})
        return None if row is None else Holder(row.holder, int(row.held_s))

    def pin(self, connection: Connection, name: str, token: str) -> bool:
        """Keep everybody from taking the lock over until the connection's transaction ends; False if one has."""
        return connection.execute(_PIN, {"name": name, "token": token}).first() is not None

    def _first(self, statement: TextClause, values: dict[str, Any]) -> Row[Any] | None:
        """Return the first row that one statement gives; a collision with another's is looked at again."""
        for _ in range(_MAX_ATTEMPTS):
            try:
                with self._database.stating() as connection:
                    return connection.execute(statement, values).first()
            except Overtaken:
                continue
        raise ServiceUnavailableError(
            f"{_MAX_ATTEMPTS} other writers were faster at the lock {values['name']!r} in {self._database.address}"
        )
