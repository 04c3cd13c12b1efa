"""Records of stages on several hosts: only who holds the stage's lock makes a record the stage's.

The record itself lies in the store, under a name with the token of the lock. It becomes the stage's record by a
row in PostgreSQL, which is written in one transaction with the proof that the lock still is held. A process that
slept beyond its lease therefore writes a record that nobody reads.
"""

from functools import cached_property

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from tasks.adapters.lease_locks import PATIENCE_S, LeaseLocks
from tasks.adapters.ledger_database import LedgerDatabase, Overtaken, patiently
from tasks.adapters.ledger_schema import open_ledger
from tasks.adapters.ledger_tables import STAGE_RECORDS
from tasks.contracts.errors import LockLostError
from tasks.runtime.services import RecordStore, stage_lock


class FencedRecords:
    """See `tasks.runtime.services.RecordStore`."""

    def __init__(self, records: RecordStore, database: LedgerDatabase, locks: LeaseLocks) -> None:
        """Prepare to use them; nothing is opened yet.

        Args:
            records: where the records lie.
            database: the ledger's, in PostgreSQL, in which the locks lie too.
            locks: of the stages.
        """
        self._records = records
        self._unopened = database
        self._locks = locks

    @cached_property
    def _database(self) -> LedgerDatabase:
        open_ledger(self._unopened)
        return self._unopened

    def read(self, key: str) -> bytes | None:
        """See `RecordStore.read`. Records from before the store was shared have no row and count as they stand."""
        # the caller takes an error for a stage that is not cached, and would compute it anew
        token = patiently(lambda: self._token(key), PATIENCE_S)
        return self._records.read(key if token is None else _place(key, token))

    def write(self, key: str, data: bytes) -> None:
        """See `RecordStore.write`. An outage of the database is waited out: the stage may have taken hours.

        Raises:
            LockLostError: another holds the stage's lock by now; the record is not the stage's.
        """
        token = self._locks.token(stage_lock(key))
        self._records.write(_place(key, token), data)
        patiently(lambda: self._commit(key, token), PATIENCE_S)

    def _token(self, key: str) -> str | None:
        query = select(STAGE_RECORDS.c.token).where(STAGE_RECORDS.c.stage_key == key)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def _commit(self, key: str, token: str) -> None:
        values = {"token": token, "committed_at": func.clock_timestamp()}
        statement = insert(STAGE_RECORDS).values(stage_key=key, **values)
        statement = statement.on_conflict_do_update(index_elements=["stage_key"], set_=values)
        try:
            with self._database.writing() as connection:
                self._locks.pin(connection, stage_lock(key), token)
                connection.execute(statement)
        except Overtaken as error:
            raise LockLostError(f"another wrote the record of stage {key} at the same time: {error}") from error


def _place(key: str, token: str) -> str:
    return f"{key}/{token}"
