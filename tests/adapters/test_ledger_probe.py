from pathlib import Path

from tasks.adapters.ledger import SqlLedger
from tasks.adapters.ledger_probe import probe_ledger
from tasks.adapters.ledger_schema import VERSIONS


def test_probe_ledger_makes_no_file_and_tells_the_version_of_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    assert probe_ledger(url).version is None
    assert not (tmp_path / "ledger.db").exists()
    SqlLedger(url)
    facts = probe_ledger(url)
    assert (facts.version, facts.wanted, facts.clock_offset_s) == (VERSIONS[-1], VERSIONS[-1], None)


def test_probe_ledger_asks_postgresql_for_its_clock(ledger_url: str) -> None:
    assert probe_ledger(ledger_url).version is None
    SqlLedger(ledger_url)

    facts = probe_ledger(ledger_url)

    assert facts.version == VERSIONS[-1]
    assert facts.clock_offset_s is not None
    assert abs(facts.clock_offset_s) < 1  # one machine, one clock
    assert facts.encrypted is False
    assert facts.round_trip_ms > 0
