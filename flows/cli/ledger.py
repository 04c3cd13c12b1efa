"""`stillhouse ledger`: the database that says who is champion, and why."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def ledger() -> None:
    """The ledger's database."""


@app.command()
def migrate(as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False) -> None:
    """Bring the ledger's tables to this program's version. Doing it twice does nothing.

    Only a PostgreSQL ledger that an older Stillhouse made needs it. End every older program that writes to it
    first: they refuse the new tables. Make a backup with pg_dump before.
    """
    from flows.cli.console import console, print_json
    from tasks.adapters.ledger_database import LedgerDatabase
    from tasks.adapters.ledger_schema import migrate as migrate_tables
    from tasks.runtime.settings import current_settings

    database = LedgerDatabase(current_settings().ledger_address)
    before, after = migrate_tables(database)
    if as_json:
        print_json({"ledger": database.address, "before": before, "after": after})
        return
    done = f"version {after} already" if before == after else f"migrated from version {before or 'none'} to {after}"
    console().print(f"{database.address}: {done}", markup=False)


@app.command("copy")
def copy_rows(
    source: Annotated[
        str | None,
        typer.Option("--from", help="SQLAlchemy URL of the ledger to copy. Default: the embedded one, SQLite in HOME."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False,
) -> None:
    """Copy another ledger into the one that STILLHOUSE_LEDGER_URL names, which must be empty.

    This is how champions move from one laptop's SQLite to PostgreSQL. End what writes to either of them first.
    """
    from flows.cli.console import console, print_json
    from tasks.adapters.ledger_copy import copy_ledger
    from tasks.contracts.errors import UserError
    from tasks.runtime.settings import current_settings

    settings = current_settings()
    embedded = settings.home / "ledger.db"
    if source is None and not embedded.exists():
        raise UserError(f"there is no embedded ledger at {embedded}; name the one to copy with --from")
    address = source or f"sqlite:///{embedded}"
    if address == settings.ledger_address:
        raise UserError("STILLHOUSE_LEDGER_URL names the ledger that is to be copied; set it to the new one")
    copied = copy_ledger(address, settings.ledger_address)
    if as_json:
        print_json(copied)
        return
    console().print(", ".join(f"{count} rows of {table}" for table, count in copied.items()) + " copied")
