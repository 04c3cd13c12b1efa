"""Move to another database: all rows of one ledger, in their order, into one that has none."""

from sqlalchemy import Connection, Table, func, insert, select

from tasks.adapters.ledger_database import LedgerDatabase, Overtaken
from tasks.adapters.ledger_schema import open_ledger
from tasks.adapters.ledger_tables import METADATA
from tasks.contracts.errors import UserError


def copy_ledger(source_url: str, target_url: str) -> dict[str, int]:
    """Copy all rows, in one transaction; return how many by table.

    Raises:
        UserError: the target has rows already.
        LedgerSchemaError: the tables of one are of another version than this program's.
        ServiceUnavailableError: a database cannot be reached, or the target cannot be written.
    """
    source, target = LedgerDatabase(source_url), LedgerDatabase(target_url)
    open_ledger(source)
    open_ledger(target)
    try:
        with source.reading() as reading, target.writing() as writing:
            return {table.name: _copy(table, reading, writing, target.address) for table in METADATA.sorted_tables}
    except Overtaken as error:
        raise UserError(f"another program writes to {target.address}: {error}; nothing was copied") from error


def _copy(table: Table, reading: Connection, writing: Connection, target: str) -> int:
    if writing.execute(select(func.count()).select_from(table)).scalar_one():
        raise UserError(f"the ledger {target} has rows in {table.name} already; copy into an empty database")
    # numbers that the database gives are given anew, in the same order: it does not count those that are inserted
    columns = [column for column in table.columns if column is not table.autoincrement_column]
    rows = reading.execute(select(*columns).order_by(*table.primary_key.columns)).mappings().all()
    if rows:
        writing.execute(insert(table), [dict(row) for row in rows])
    return len(rows)
