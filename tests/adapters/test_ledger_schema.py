import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, event, text

from tasks.adapters import ledger_migrations
from tasks.adapters.ledger import SqlLedger
from tasks.adapters.ledger_copy import copy_ledger
from tasks.adapters.ledger_database import LedgerDatabase
from tasks.adapters.ledger_schema import VERSION_TABLE, VERSIONS, migrate, open_ledger, schema_version
from tasks.adapters.ledger_tables import METADATA, SHARED
from tasks.contracts.errors import LedgerSchemaError, ServiceUnavailableError, UserError
from tasks.contracts.verdict import LedgerEntry

# as the first release made them
FIRST_TABLES = (
    "CREATE TABLE promotions (model_name VARCHAR(63) NOT NULL, sequence INTEGER NOT NULL, action VARCHAR(16) NOT NULL, "
    "candidate VARCHAR(64) NOT NULL, version INTEGER NOT NULL, gate_report VARCHAR(64), "
    "expected_champion VARCHAR(64), actor TEXT NOT NULL, reason TEXT NOT NULL, created_at VARCHAR(40) NOT NULL, "
    "PRIMARY KEY (model_name, sequence), "
    "CONSTRAINT uq_promotions_evidence UNIQUE (model_name, candidate, gate_report))",
    "CREATE TABLE rollout_ticks (position {} NOT NULL, model_name VARCHAR(63) NOT NULL, "
    "rollout_id VARCHAR(255) NOT NULL, tick INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (position), "
    "CONSTRAINT uq_rollout_ticks_tick UNIQUE (rollout_id, tick))",
    "INSERT INTO promotions VALUES "
    "('digits', 1, 'bootstrap', '{}', 1, NULL, NULL, 'flow', 'first', '2026-01-01T00:00:00Z')",
    "INSERT INTO rollout_ticks (model_name, rollout_id, tick, state) VALUES ('digits', 'r1', 0, '{{}}')",
)
A = "a" * 64


def make_first_ledger(address):
    database = LedgerDatabase(address)
    number = "SERIAL" if database.is_postgresql else "INTEGER"
    with database.engine.begin() as connection:
        for statement in FIRST_TABLES:
            connection.execute(text(statement.format(number if "ticks (position" in statement else A)))


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("ledger_url")
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def test_the_program_knows_exactly_the_migrations_that_there_are():
    scripts = ScriptDirectory(str(Path(ledger_migrations.__path__[0])))

    assert [script.revision for script in scripts.walk_revisions()] == list(reversed(VERSIONS))


def test_migrations_lead_to_the_tables_that_the_program_uses(address):
    database = LedgerDatabase(address)
    open_ledger(database)

    expected = MetaData()
    for metadata in (METADATA, SHARED) if database.is_postgresql else (METADATA,):
        for table in metadata.tables.values():
            table.to_metadata(expected)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, expected) == []
    assert schema_version(database) == VERSIONS[-1]


def test_an_sqlite_ledger_of_the_first_release_is_migrated_when_it_is_opened_and_keeps_its_rows(tmp_path):
    address = f"sqlite:///{tmp_path / 'ledger.db'}"
    make_first_ledger(address)

    ledger = SqlLedger(address)

    assert [row.candidate for row in ledger.history("digits")] == [A]
    assert ledger.latest_tick("digits") == ("r1", 0, b"{}")
    with sqlite3.connect(tmp_path / "ledger.db") as raw, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        raw.execute("DELETE FROM promotions")
    raw.close()


def test_a_postgresql_ledger_of_an_older_release_is_left_alone_until_the_command_migrates_it(ledger_url):
    make_first_ledger(ledger_url)

    with pytest.raises(LedgerSchemaError, match="stillhouse ledger migrate"):
        SqlLedger(ledger_url)
    assert schema_version(LedgerDatabase(ledger_url)) is None

    assert migrate(LedgerDatabase(ledger_url)) == (None, VERSIONS[-1])
    assert migrate(LedgerDatabase(ledger_url)) == (VERSIONS[-1], VERSIONS[-1])
    assert [row.candidate for row in SqlLedger(ledger_url).history("digits")] == [A]


def test_a_newer_ledger_is_refused_with_what_to_do(address):
    database = LedgerDatabase(address)
    open_ledger(database)
    with database.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    for use in (open_ledger, migrate):
        with pytest.raises(LedgerSchemaError, match=r"9999.*newer Stillhouse"):
            use(LedgerDatabase(address))


def test_a_migration_that_is_cut_off_leaves_nothing_behind(address):
    make_first_ledger(address)
    database = LedgerDatabase(address)

    @event.listens_for(database.engine, "before_cursor_execute")
    def cut(_connection, _cursor, statement, *_rest):
        if statement.startswith("CREATE TRIGGER rollout_ticks"):
            raise OSError("cut off")

    with pytest.raises(ServiceUnavailableError, match="cut off"):
        migrate(database)

    assert schema_version(LedgerDatabase(address)) is None
    assert migrate(LedgerDatabase(address)) == (None, VERSIONS[-1])


@pytest.mark.slow
def test_two_processes_may_migrate_one_empty_database_at_once(address):
    code = "import sys; from tasks.adapters.ledger import SqlLedger; SqlLedger(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, address], stderr=subprocess.PIPE) for _ in range(3)]

    errors = [process.communicate()[1].decode() for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert schema_version(LedgerDatabase(address)) == VERSIONS[-1]


def test_copy_moves_champions_and_ticks_to_postgresql_and_only_into_an_empty_ledger(tmp_path, ledger_url):
    address = f"sqlite:///{tmp_path / 'ledger.db'}"
    make_first_ledger(address)
    source = SqlLedger(address)
    source.append_tick("digits", "r1", 1, b'{"step": 1}')

    assert copy_ledger(address, ledger_url) == {"promotions": 1, "rollout_ticks": 2}

    target = SqlLedger(ledger_url)
    assert target.history("digits") == source.history("digits")
    assert target.ticks("r1") == source.ticks("r1")
    target.append_tick("digits", "r2", 0, b"{}")
    assert target.latest_tick("digits") == ("r2", 0, b"{}")
    promoted = LedgerEntry(
        model_name="digits", sequence=1, action="promote", candidate="b" * 64, version=2, gate_report="c" * 64,
        expected_champion=A, actor="ann", reason="better", created_at="2026-01-02T00:00:00Z",
    )  # fmt: skip
    assert target.append(promoted).sequence == 2
    with pytest.raises(UserError, match="has rows in promotions already"):
        copy_ledger(address, ledger_url)
