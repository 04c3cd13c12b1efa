"""Which record is a stage's, on several hosts: that of the worker that holds the stage's lock.

A record lies in the store under a name with the token of its writer's lock. It becomes the stage's record by a row
in PostgreSQL, which is written in one transaction with the proof that the lock still is held. A process that slept
beyond its lease therefore leaves a record that nobody reads.
"""

from functools import cached_property

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from tasks.adapters.lease_locks import PATIENCE_S, LeaseLocks
from tasks.adapters.ledger_database import LedgerDatabase, Overtaken, patiently
from tasks.adapters.ledger_schema import open_ledger
from tasks.adapters.ledger_tables import STAGE_RECORDS
from tasks.contracts.errors import LockLostError
from tasks.runtime.locking import stage_lock


class LeasedCommits:
    """See `tasks.runtime.stores.StageCommits`. An outage of the database is waited out: work of hours rests on it."""

    def __init__(self, database: LedgerDatabase, locks: LeaseLocks) -> None:
        """Prepare to commit; nothing is opened yet.

        Args:
            database: the ledger's, in PostgreSQL, in which the locks lie too.
            locks: of the stages.
        """
        self._unopened = database
        self._locks = locks

    @cached_property
    def _database(self) -> LedgerDatabase:
        open_ledger(self._unopened)
        return self._unopened

    def place(self, stage_key: str) -> str:
        """See `StageCommits.place`. Records from before the store was shared have no row and count as they stand."""
        # the caller takes an error for a stage that is not cached, and would compute it anew
        token = patiently(lambda: self._token(stage_key), PATIENCE_S)
        return stage_key if token is None else f"{stage_key}/{token}"

    def new_place(self, stage_key: str) -> str:
        """See `StageCommits.new_place`."""
        return f"{stage_key}/{self._locks.token(stage_lock(stage_key))}"

    def commit(self, stage_key: str, place: str) -> None:
        """See `StageCommits.commit`."""
        token = place.rpartition("/")[2]
        patiently(lambda: self._commit(stage_key, token), PATIENCE_S)

    def _token(self, stage_key: str) -> str | None:
        query = select(STAGE_RECORDS.c.token).where(STAGE_RECORDS.c.stage_key == stage_key)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def _commit(self, stage_key: str, token: str) -> None:
        values = {"token": token, "committed_at": func.clock_timestamp()}
        statement = insert(STAGE_RECORDS).values(stage_key=stage_key, **values)
        statement = statement.on_conflict_do_update(index_elements=["stage_key"], set_=values)
        try:
            with self._database.writing() as connection:
                self._locks.pin(connection, stage_lock(stage_key), token)
                connection.execute(statement)
        except Overtaken as error:
            raise LockLostError(f"another committed stage {stage_key} at the same time: {error}") from error
