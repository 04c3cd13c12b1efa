from dataclasses import replace

import pytest

from flows.diagnosis import database
from tasks.adapters.ledger_probe import LedgerFacts
from tasks.runtime.services import connect

FACTS = LedgerFacts("postgresql://ann:***@db/stillhouse", "0004", "0004", 1.5, 0.1, True)


@pytest.mark.parametrize(
    ("version", "state", "detail", "remedy"),
    [
        ("0004", "ok", "answers in 1.5 ms, tables of version 0004", ""),
        (None, "ok", "its tables are made at first use", ""),
        ("0003", "broken", "version 0003; this program needs 0004", "`stillhouse ledger migrate`"),
        ("0009", "broken", "version 0009; this program needs 0004", "install a newer Stillhouse"),
    ],
)
def test_judge_ledger_says_who_has_to_follow_whom(version: str | None, state: str, detail: str, remedy: str) -> None:
    found = database.judge_ledger(replace(FACTS, version=version))

    assert found.state == state
    assert detail in found.detail
    assert found.remedy.startswith(remedy)


def test_locks_are_taken_and_given_back() -> None:
    found = database.locks(connect())

    assert found.state == "ok"
    assert found.detail.startswith("files, for the processes of this host; taken and given back in")


def test_ledger_of_a_new_home_is_well_and_is_not_made_by_asking() -> None:
    found = database.ledger(connect())

    assert (found.state, "first use" in found.detail) == ("ok", True)
    assert not (connect().settings.home / "ledger.db").exists()
