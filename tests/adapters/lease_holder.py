"""A process that holds a lock in PostgreSQL and does under it what its standard input says; run as a program.

Arguments: the ledger's URL, the folder of its store, the name of the lock, the length of its lease in seconds, and
by how many seconds the clock of this "host" is wrong.
"""

import datetime
import sys
import time
from pathlib import Path

from tasks.adapters.fenced_records import FencedRecords
from tasks.adapters.lease_locks import LeaseLocks
from tasks.adapters.lease_rows import LeaseRows
from tasks.adapters.ledger import SqlLedger
from tasks.adapters.ledger_database import LedgerDatabase
from tasks.adapters.local_store import LocalRecords
from tasks.contracts.errors import StillhouseError
from tasks.contracts.verdict import LedgerEntry

STAGE = "compress/abc"


def locks_on(url, length_s):
    return LeaseLocks(LeaseRows(LedgerDatabase(url), length_s), length_s)


def records_on(url, folder, locks):
    return FencedRecords(LocalRecords(Path(folder)), LedgerDatabase(url), locks)


def entry(letter, expected=None):
    return LedgerEntry(
        model_name="digits", sequence=1, action="promote" if expected else "bootstrap", candidate=letter * 64,
        version=1, gate_report=letter * 64 if expected else None, expected_champion=expected, actor="ann",
        reason="better", created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip


def set_clock_wrong(skew_s):
    right = time.time

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(seconds=skew_s)

    time.time = lambda: right() + skew_s
    datetime.datetime = Wrong


def do(command, lock, ledger, records):
    try:
        if command == "require":
            lock.require()
        elif command == "append":
            ledger.append(entry("b", "a" * 64))
        elif command == "tick":
            ledger.append_tick("digits", "r1", 0, b"{}")
        elif command == "record":
            records.write(STAGE, b"ours")
        elif command == "release":
            lock.release()
    except StillhouseError as error:
        return type(error).__name__
    return "done"


def main():
    url, folder, name, length_s, skew_s = sys.argv[1:]
    set_clock_wrong(float(skew_s))
    locks = locks_on(url, float(length_s))
    ledger, records = SqlLedger(url, locks.pin_held), records_on(url, folder, locks)
    if name.startswith("stage/"):
        lock = locks.acquire(name)
        serve(lock, ledger, records)
    else:
        try:
            with locks.hold(name):
                serve(locks._held[name], ledger, records)
        except StillhouseError as error:
            say(type(error).__name__)


def serve(lock, ledger, records):
    say("held")
    for line in sys.stdin:
        say(do(line.strip(), lock, ledger, records))


def say(what):
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
