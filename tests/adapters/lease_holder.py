"""A process that holds a lock in PostgreSQL and does under it what its standard input says; run as a program.

Arguments: the ledger's URL, the name of the lock, the length of its lease in seconds, and
by how many seconds the clock of this "host" is wrong.
"""

import datetime
import sys
import time

from tasks.adapters.lease_locks import LeaseLocks
from tasks.adapters.lease_rows import LeaseRows
from tasks.adapters.ledger import SqlLedger
from tasks.adapters.ledger_database import LedgerDatabase
from tasks.adapters.stage_commits import LeasedCommits
from tasks.contracts.errors import StillhouseError
from tasks.contracts.verdict import LedgerEntry

STAGE = "compress/abc"


def locks_on(url, length_s):
    return LeaseLocks(LeaseRows(LedgerDatabase(url), length_s))


def commits_on(url, locks):
    return LeasedCommits(LedgerDatabase(url), locks)


def commit(commits):
    """Commit the stage as this process, and return the place of its record."""
    place = commits.new_place(STAGE)
    commits.commit(STAGE, place)
    return place


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


def do(command, lock, ledger, commits):
    try:
        if command == "require":
            lock.require()
        elif command == "append":
            ledger.append(entry("b", "a" * 64))
        elif command == "tick":
            ledger.append_tick("digits", "r1", 0, b"{}")
        elif command == "commit":
            commit(commits)
        elif command == "release":
            lock.release()
    except StillhouseError as error:
        return type(error).__name__
    return "done"


def main():
    url, name, length_s, skew_s = sys.argv[1:]
    set_clock_wrong(float(skew_s))
    locks = locks_on(url, float(length_s))
    ledger, commits = SqlLedger(url, locks.pin_held), commits_on(url, locks)
    if name.startswith("stage/"):
        lock = locks.acquire(name)
        serve(lock, ledger, commits)
    else:
        try:
            with locks.hold(name):
                serve(locks._held[name], ledger, commits)
        except StillhouseError as error:
            say(type(error).__name__)


def serve(lock, ledger, commits):
    say("held")
    for line in sys.stdin:
        say(do(line.strip(), lock, ledger, commits))


def say(what):
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
