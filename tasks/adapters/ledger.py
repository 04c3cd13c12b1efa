"""The append-only ledger in SQL: who is champion and why, and every tick of a rollout.

Only portable SQL: the compare-and-set is a unique key, so it holds on any database and at any
isolation level. SQLite is the embedded default, PostgreSQL the production one.
"""

from collections.abc import Callable

from sqlalchemy import Connection, RowMapping, func, insert, select

from tasks.adapters.ledger_database import LedgerDatabase, Overtaken
from tasks.adapters.ledger_schema import open_ledger
from tasks.adapters.ledger_tables import PROMOTIONS, TICKS
from tasks.contracts.errors import DocumentConflictError, InfrastructureError, StaleChampionError
from tasks.contracts.value import Digest, digests_in
from tasks.contracts.verdict import LedgerEntry

_MAX_ATTEMPTS = 10

Fence = Callable[[Connection], None]
"""Called within the transaction of every write; it raises where the locks that the caller held were lost."""


class SqlLedger:
    """See `tasks.runtime.bookkeeping.Ledger`. Rows are inserted and read, never changed."""

    def __init__(self, url: str, fence: Fence | None = None) -> None:
        """Connect to `url` (a SQLAlchemy URL) and create the tables if there are none.

        Raises:
            UserError: the URL cannot be parsed, or its driver is not installed.
            LedgerSchemaError: the tables are of another version than this program's.
            InfrastructureError: the database cannot be reached or written.
        """
        self._database = LedgerDatabase(url)
        self._fence = fence or (lambda _connection: None)
        open_ledger(self._database)

    def champion(self, model_name: str) -> LedgerEntry | None:
        """See `Ledger.champion`."""
        with self._database.reading() as connection:
            return _newest(connection, model_name)

    def history(self, model_name: str) -> list[LedgerEntry]:
        """See `Ledger.history`."""
        query = select(PROMOTIONS).where(PROMOTIONS.c.model_name == model_name).order_by(PROMOTIONS.c.sequence)
        with self._database.reading() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """See `Ledger.append`.

        An entry without a gate report (bootstrap, rollback) is a repetition only of the newest entry:
        rolling back to the same champion again later is a new event.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                with self._database.writing() as connection:
                    self._fence(connection)
                    return _append_once(connection, entry)
            except Overtaken:  # another process took this sequence number: look again who is champion
                continue
        raise self._always_overtaken(entry.model_name)

    def latest_tick(self, model_name: str) -> tuple[str, int, bytes] | None:
        """See `Ledger.latest_tick`."""
        query = select(TICKS).where(TICKS.c.model_name == model_name).order_by(TICKS.c.position.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else (row["rollout_id"], row["tick"], row["state"].encode())

    def append_tick(self, model_name: str, rollout_id: str, tick: int, state: bytes) -> None:
        """See `Ledger.append_tick`. Recording the same state again does nothing."""
        row = {"model_name": model_name, "rollout_id": rollout_id, "tick": tick, "state": state.decode()}
        for _ in range(_MAX_ATTEMPTS):
            try:
                with self._database.writing() as connection:
                    self._fence(connection)
                    connection.execute(insert(TICKS).values(row))
                    return
            except Overtaken:
                recorded = self._tick(rollout_id, tick)
            if recorded == (model_name, state):
                return
            if recorded is not None:
                raise DocumentConflictError(
                    f"tick {tick} of rollout {rollout_id} of {model_name} is in the ledger with another state; "
                    "another process ticks the same rollout. Read the latest tick and go on from there."
                )
        raise self._always_overtaken(model_name)

    def ticks(self, rollout_id: str) -> list[bytes]:
        """See `Ledger.ticks`."""
        query = select(TICKS.c.state).where(TICKS.c.rollout_id == rollout_id).order_by(TICKS.c.tick)
        with self._database.reading() as connection:
            return [state.encode() for state in connection.execute(query).scalars()]

    def digests(self) -> set[Digest]:
        """See `Ledger.digests`."""
        rows = PROMOTIONS.c.candidate, PROMOTIONS.c.gate_report, PROMOTIONS.c.expected_champion
        with self._database.reading() as connection:
            found = {digest for row in connection.execute(select(*rows)) for digest in row if digest is not None}
            for state in connection.execute(select(TICKS.c.state)).scalars():
                found |= digests_in(state.encode())
        return found

    def _tick(self, rollout_id: str, tick: int) -> tuple[str, bytes] | None:
        query = select(TICKS).where(TICKS.c.rollout_id == rollout_id, TICKS.c.tick == tick)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else (row["model_name"], row["state"].encode())

    def _always_overtaken(self, model_name: str) -> InfrastructureError:
        return InfrastructureError(
            f"{_MAX_ATTEMPTS} other writers were faster at the ledger {self._database.address} of {model_name}; "
            "try again"
        )


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
    connection.execute(insert(PROMOTIONS).values(appended.model_dump()))
    return appended


def _repeated(connection: Connection, entry: LedgerEntry, newest: LedgerEntry | None) -> LedgerEntry | None:
    """Return the row that this entry repeats, if there is one."""
    if entry.gate_report is None:
        same = newest is not None and _event(newest) == _event(entry)
        return newest if same else None
    query = select(PROMOTIONS).where(
        PROMOTIONS.c.model_name == entry.model_name,
        PROMOTIONS.c.candidate == entry.candidate,
        PROMOTIONS.c.gate_report == entry.gate_report,
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _entry(row)


def _event(entry: LedgerEntry) -> tuple[str, Digest, Digest | None, Digest | None]:
    return entry.action, entry.candidate, entry.gate_report, entry.expected_champion


def _newest(connection: Connection, model_name: str) -> LedgerEntry | None:
    highest = select(func.max(PROMOTIONS.c.sequence)).where(PROMOTIONS.c.model_name == model_name).scalar_subquery()
    query = select(PROMOTIONS).where(PROMOTIONS.c.model_name == model_name, PROMOTIONS.c.sequence == highest)
    row = connection.execute(query).mappings().first()
    return None if row is None else _entry(row)


def _entry(row: RowMapping) -> LedgerEntry:
    return LedgerEntry.model_validate(dict(row))


def _short(digest: Digest | None) -> str:
    return digest[:12] if digest else "none"
