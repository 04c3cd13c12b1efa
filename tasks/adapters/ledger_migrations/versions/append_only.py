"""The database itself refuses to change or remove a row of the ledger."""

from alembic import op

revision = "0002"
down_revision = "0001"

_TABLES = ("promotions", "rollout_ticks")
_REFUSAL = "the ledger is append-only"


def upgrade() -> None:
    """Put triggers on both tables."""
    if op.get_context().dialect.name == "postgresql":
        _refuse_in_postgresql()
    else:
        _refuse_in_sqlite()


def _refuse_in_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION stillhouse_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}: % of %', TG_OP, TG_TABLE_NAME; END $$"
    )
    for table in _TABLES:
        # for each statement: TRUNCATE has no rows, and a change that meets none is a mistake too
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION stillhouse_refuse_change()"
        )


def _refuse_in_sqlite() -> None:
    for table in _TABLES:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}: {change} of {table}'); END"
            )
