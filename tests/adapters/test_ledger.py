import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from tasks.adapters import ledger as ledger_module
from tasks.adapters import ledger_database
from tasks.adapters.ledger import SqlLedger
from tasks.contracts.errors import (
    DocumentConflictError,
    InfrastructureError,
    ServiceUnavailableError,
    StaleChampionError,
    StillhouseError,
    UserError,
)
from tasks.contracts.verdict import LedgerEntry

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
REPORT_B, REPORT_C = ("1" * 64, "2" * 64)


def entry(candidate, expected=None, report=None, action="promote", **fields):
    values = {"sequence": 99, "version": 1, "actor": "ann", "reason": "better", "created_at": "2026-01-01T00:00:00Z"}
    return LedgerEntry(
        model_name="digits",
        action=action,
        candidate=candidate,
        gate_report=report,
        expected_champion=expected,
        **(values | fields),
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """The URL of a new ledger, in either database."""
    if request.param == "postgresql":
        return request.getfixturevalue("ledger_url")
    return f"sqlite:///{tmp_path / 'deep' / 'folder' / 'ledger.db'}"


@pytest.fixture
def ledger(address):
    return SqlLedger(address)


def test_append_numbers_entries_from_one_when_champions_follow_each_other(ledger):
    first = ledger.append(entry(A, action="bootstrap"))
    second = ledger.append(entry(B, expected=A, report=REPORT_B))

    assert (first.sequence, second.sequence) == (1, 2)
    assert ledger.champion("digits") == second
    assert ledger.history("digits") == [first, second]


def test_champion_is_none_when_the_model_is_unknown(ledger):
    ledger.append(entry(A, action="bootstrap"))

    assert ledger.champion("letters") is None
    assert ledger.history("letters") == []


@pytest.mark.parametrize("expected", [None, C])
def test_append_refuses_and_changes_nothing_when_the_expected_champion_is_stale(ledger, expected):
    ledger.append(entry(A, action="bootstrap"))

    with pytest.raises(StaleChampionError, match=r"champion of digits is aaaaaaaaaaaa, not (none|cccccccccccc)"):
        ledger.append(entry(B, expected=expected, report=REPORT_B))

    assert [row.candidate for row in ledger.history("digits")] == [A]


def test_append_returns_the_first_entry_as_it_stands_when_the_same_evidence_comes_again(ledger):
    ledger.append(entry(A, action="bootstrap"))
    first = ledger.append(entry(B, expected=A, report=REPORT_B))
    ledger.append(entry(C, expected=B, report=REPORT_C))

    again = ledger.append(entry(B, expected=A, report=REPORT_B, reason="a retry", created_at="2027-01-01T00:00:00Z"))

    assert again == first
    assert len(ledger.history("digits")) == 3


def test_append_takes_a_second_rollback_to_the_same_champion_when_it_is_a_new_event(ledger):
    ledger.append(entry(A, action="bootstrap"))
    ledger.append(entry(B, expected=A, report=REPORT_B))
    ledger.append(entry(A, expected=B, action="rollback"))
    ledger.append(entry(A, expected=B, action="rollback"))  # a retry of the same
    ledger.append(entry(B, expected=A, report=REPORT_C))
    ledger.append(entry(A, expected=B, action="rollback"))

    assert [row.action for row in ledger.history("digits")] == [
        "bootstrap", "promote", "rollback", "promote", "rollback",
    ]  # fmt: skip


def test_ticks_come_back_in_order_when_recorded_twice(ledger):
    for tick in (0, 1, 1, 2):
        ledger.append_tick("digits", "r1", tick, json.dumps({"tick": tick}).encode())
    ledger.append_tick("letters", "r2", 0, b"{}")

    assert ledger.ticks("r1") == [b'{"tick": 0}', b'{"tick": 1}', b'{"tick": 2}']
    assert ledger.latest_tick("digits") == ("r1", 2, b'{"tick": 2}')
    assert ledger.latest_tick("unknown") is None


def test_latest_tick_is_of_the_newest_rollout_when_an_older_one_had_more_ticks(ledger):
    for tick in range(3):
        ledger.append_tick("digits", "old", tick, b"{}")
    ledger.append_tick("digits", "new", 0, b'{"step": 0}')

    assert ledger.latest_tick("digits") == ("new", 0, b'{"step": 0}')


def test_append_tick_refuses_when_the_tick_has_another_state(ledger):
    ledger.append_tick("digits", "r1", 0, b"{}")

    with pytest.raises(DocumentConflictError, match="tick 0 of rollout r1"):
        ledger.append_tick("digits", "r1", 0, b'{"other": true}')
    with pytest.raises(DocumentConflictError):
        ledger.append_tick("letters", "r1", 0, b"{}")


RACE = """
import os, sys
from tasks.adapters.ledger import SqlLedger
from tasks.contracts.errors import StaleChampionError
from tasks.contracts.verdict import LedgerEntry

address, count = sys.argv[1], int(sys.argv[2])
gate_read, gate_write = os.pipe()
children = []
for number in range(count):
    child = os.fork()
    if child == 0:
        os.close(gate_write)
        os.read(gate_read, 1)  # end-of-file for all at once, when the parent closes its end
        digit = format(number, "x")
        entry = LedgerEntry(model_name="digits", sequence=1, action="promote", candidate=digit * 64, version=1,
            gate_report=digit * 64, expected_champion=None, actor="x", reason="", created_at="2026-01-01T00:00:00Z")
        code = 2
        try:
            SqlLedger(address).append(entry)
            code = 0
        except StaleChampionError:
            code = 1
        finally:
            os._exit(code)
    children.append(child)
os.close(gate_write)
print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.mark.parametrize("address", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_append_has_exactly_one_winner_when_eight_processes_create_the_ledger_and_promote_at_once(address):
    output = subprocess.run([sys.executable, "-c", RACE, address, "8"], check=True, capture_output=True, text=True)

    assert sorted(output.stdout.split()) == ["0"] + ["1"] * 7, output.stderr
    assert [row.sequence for row in SqlLedger(address).history("digits")] == [1]


def test_ledger_is_in_wal_mode_when_it_is_a_file(tmp_path):
    SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}")

    with sqlite3.connect(tmp_path / "ledger.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()


def test_append_names_address_and_setting_when_another_program_holds_the_database(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_database, "_BUSY_TIMEOUT_MS", 50)
    path = tmp_path / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(ServiceUnavailableError, match=r"locked.*") as caught:
            ledger.append(entry(A, action="bootstrap"))
    finally:
        holder.close()

    assert str(path) in str(caught.value)
    assert "STILLHOUSE_LEDGER_URL" in str(caught.value)
    assert ledger.append(entry(A, action="bootstrap")).sequence == 1


def test_append_says_to_free_space_when_the_disk_is_full(tmp_path):
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    engine = ledger._database.engine
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=1"))

    with pytest.raises(InfrastructureError, match=r"full.*Free space"):
        ledger.append_tick("digits", "r", 0, b"x" * 100_000)


def test_ledger_refuses_when_the_file_is_not_a_database(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database" * 100)

    with pytest.raises(ServiceUnavailableError, match="STILLHOUSE_LEDGER_URL"):
        SqlLedger(f"sqlite:///{path}")


def test_ledger_refuses_when_the_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ServiceUnavailableError, match="STILLHOUSE_LEDGER_URL"):
        SqlLedger(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")


def test_ledger_hides_the_password_when_the_server_cannot_be_used():
    with pytest.raises(StillhouseError) as caught:
        SqlLedger("postgresql+psycopg://ann:secret@127.0.0.1:1/stillhouse")

    assert "secret" not in str(caught.value)
    assert "ann" in str(caught.value)


def test_ledger_does_not_echo_the_url_when_it_cannot_be_parsed():
    with pytest.raises(UserError, match="not a SQLAlchemy URL") as caught:
        SqlLedger("secret")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:pw@secret@127.0.0.1:1/db",
        "postgresql://ann:se:cret@127.0.0.1:secret/db",
        "postgresql://127.0.0.1:1/db?user=ann&password=secret",
        "postgresql://ann:pw@127.0.0.1:1/db?sslpassword=secret",
    ],
)
def test_ledger_shows_no_part_of_a_password_wherever_the_url_holds_it(url):
    with pytest.raises(StillhouseError, match="STILLHOUSE_LEDGER_URL") as caught:
        SqlLedger(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://ann:secret@host/db", "postgresql+psycopg2://ann:secret@host/db"])
def test_ledger_names_the_databases_that_it_can_lie_in_when_it_is_given_another(url):
    with pytest.raises(UserError, match=r"postgresql\+psycopg://") as caught:
        SqlLedger(url)

    assert "secret" not in str(caught.value)


def test_append_and_ticks_look_again_when_the_database_cannot_serialise_writers(ledger_url, monkeypatch):
    monkeypatch.setattr(ledger_module, "_MAX_ATTEMPTS", 100)
    ledgers = [SqlLedger(ledger_url) for _ in range(4)]
    for one in ledgers:
        one._database.engine = one._database.engine.execution_options(isolation_level="SERIALIZABLE")
    ledgers[0].append(entry(A, action="bootstrap"))

    def work(number):
        outcomes = []
        for step in range(10):
            ledgers[number].append_tick("digits", f"r{number}", step, b"{}")
            digit = format(number, "x")
            try:
                ledgers[number].append(entry(digit * 64, expected=A, report=format(step, "x") * 64))
                outcomes.append("won")
            except StaleChampionError:
                outcomes.append("stale")
        return outcomes

    with ThreadPoolExecutor(4) as pool:
        outcomes = [outcome for found in pool.map(work, range(4)) for outcome in found]

    history = ledgers[0].history("digits")
    assert [row.sequence for row in history] == list(range(1, len(history) + 1))
    assert len({(row.candidate, row.gate_report) for row in history}) == len(history) == 2
    assert all(len(ledgers[0].ticks(f"r{number}")) == 10 for number in range(4))
    assert outcomes.count("won") == 1


def test_append_looks_again_when_another_writer_came_between_its_look_and_its_write(ledger_url):
    mine, other = SqlLedger(ledger_url), SqlLedger(ledger_url)
    mine._database.engine = mine._database.engine.execution_options(isolation_level="SERIALIZABLE")
    mine.append(entry(A, action="bootstrap"))
    failures, overtaken = [], []
    event.listen(mine._database.engine, "handle_error", lambda context: failures.append(context.original_exception))

    @event.listens_for(mine._database.engine, "before_cursor_execute")
    def overtake(_connection, _cursor, statement, *_):
        if statement.startswith("INSERT INTO promotions") and not overtaken:
            overtaken.append(other.append(entry(B, expected=A, report="1" * 64)))

    with pytest.raises(StaleChampionError):
        mine.append(entry(C, expected=A, report="2" * 64))

    assert failures, "the database refused nothing"
    assert [row.candidate for row in mine.history("digits")] == [A, B]


@pytest.mark.parametrize("change", ["UPDATE {} SET model_name = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_database_refuses_to_change_or_remove_a_row_of_the_ledger(address, ledger, change):
    if change.startswith("TRUNCATE") and address.startswith("sqlite"):
        pytest.skip("SQLite has no TRUNCATE")
    ledger.append(entry(A, action="bootstrap"))
    ledger.append_tick("digits", "r", 0, b"{}")

    for table in ("promotions", "rollout_ticks"):
        with pytest.raises(DBAPIError, match="append-only"), ledger._database.engine.begin() as connection:
            connection.execute(text(change.format(table)))

    assert [row.candidate for row in ledger.history("digits")] == [A]
    assert ledger.ticks("r") == [b"{}"]


def test_importing_the_services_does_not_import_sqlalchemy():
    code = "import sys, tasks.runtime.services; sys.exit('sqlalchemy' in sys.modules or 'mlflow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
