import json
import sys

import pytest

from flows.cli import root
from flows.cli.console import console, error_console
from tasks.adapters.ledger import SqlLedger
from tasks.adapters.ledger_schema import VERSIONS
from tasks.contracts.verdict import LedgerEntry
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings


@pytest.fixture
def call(home, monkeypatch, capsys):
    (home / "prefect").mkdir(parents=True)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))  # as if a server were configured: none is started
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments):
        for cached in (console, error_console, current_settings, connect):
            cached.cache_clear()
        monkeypatch.setattr(sys, "argv", ["stillhouse", "ledger", *arguments])
        with pytest.raises(SystemExit) as ended:
            root.run_command_line()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_migrate_says_from_which_version_to_which_and_then_that_nothing_is_left(call, home):
    code, out, _ = call("migrate")
    assert (code, out.strip()) == (0, f"sqlite:///{home / 'ledger.db'}: migrated from version none to {VERSIONS[-1]}")

    code, out, _ = call("migrate", "--json")
    assert code == 0
    assert json.loads(out)["before"] == VERSIONS[-1]


def test_copy_moves_the_embedded_ledger_to_the_one_that_the_setting_names(call, home, tmp_path, monkeypatch):
    first = LedgerEntry(
        model_name="digits", sequence=1, action="bootstrap", candidate="a" * 64, version=1, gate_report=None,
        expected_champion=None, actor="ann", reason="first", created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    SqlLedger(f"sqlite:///{home / 'ledger.db'}").append(first)
    target = f"sqlite:///{tmp_path / 'target.db'}"
    monkeypatch.setenv("STILLHOUSE_LEDGER_URL", target)

    code, out, _ = call("copy")

    assert (code, out.strip()) == (0, "1 rows of promotions, 0 rows of rollout_ticks copied")
    assert SqlLedger(target).champion("digits") == first
    code, _, errors = call("copy")
    assert code == 2
    assert "has rows in promotions already" in errors


def test_copy_refuses_when_there_is_nothing_to_copy_or_both_are_one(call, home):
    assert "there is no embedded ledger" in call("copy")[2]
    SqlLedger(f"sqlite:///{home / 'ledger.db'}")
    assert "names the ledger that is to be copied" in call("copy")[2]
