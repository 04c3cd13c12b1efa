"""Prefect's cached stages on locks in PostgreSQL, in processes that wait for each other, die and freeze."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.adapters.lease_locks import LeaseLocks
from tasks.adapters.lease_rows import LeaseRows
from tasks.adapters.ledger_database import LedgerDatabase
from tasks.adapters.local_store import LocalRecords
from tasks.adapters.stage_commits import LeasedCommits
from tasks.contracts.errors import LockLostError
from tasks.runtime.caching import require_stage_lock
from tasks.runtime.locking import stage_lock
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings

PROGRAM = Path(__file__).parent / "stage_contender.py"

pytestmark = pytest.mark.slow


class Contender:
    def __init__(self, name, url, home):
        environment = os.environ | {
            "PYTHONPATH": str(PROGRAM.parents[2]), "STILLHOUSE_HOME": str(home), "STILLHOUSE_LEDGER_URL": url,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, name], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.says() == "ready"

    def says(self):
        return self.process.stdout.readline().strip()

    def finish(self):
        out, errors = self.process.communicate("\n", timeout=120)
        assert self.process.returncode == 0, errors
        return out.split()[-1]


@pytest.fixture
def contend(ledger_url, home):
    started = []

    def start(name):
        started.append(Contender(name, ledger_url, home))
        return started[-1]

    yield start
    for contender in started:
        contender.process.kill()
        contender.process.communicate()


def test_two_processes_want_one_stage_and_it_is_computed_once(contend):
    first = contend("first")
    assert first.says() == "computing"
    second = contend("second")
    time.sleep(4)  # longer than a lease

    assert first.finish() == "COMMITTED"
    assert second.says() == "cached first"


def test_the_other_computes_the_stage_within_seconds_when_its_holder_is_killed(contend):
    first = contend("first")
    assert first.says() == "computing"
    second = contend("second")
    first.process.send_signal(signal.SIGKILL)
    killed = time.monotonic()

    assert second.says() == "computing"
    assert time.monotonic() - killed < 6
    assert second.finish() == "COMMITTED"
    assert contend("third").says() == "cached second"


def test_a_holder_that_slept_beyond_its_lease_commits_nothing_and_goes_on_in_peace(contend):
    first = contend("first")
    assert first.says() == "computing"
    first.process.send_signal(signal.SIGSTOP)
    second = contend("second")
    assert second.says() == "computing"
    assert second.finish() == "COMMITTED"

    first.process.send_signal(signal.SIGCONT)

    assert first.finish() == "ROLLED_BACK"
    assert contend("third").says() == "cached second"


def test_a_finished_stage_is_committed_when_the_server_restarts_meanwhile(contend, postgres_server):
    first = contend("first")
    assert first.says() == "computing"
    postgres_server.crash()
    first.process.stdin.write("\n")
    first.process.stdin.flush()
    time.sleep(4)  # longer than a lease
    postgres_server.start()

    assert first.says() == "COMMITTED"
    assert contend("second").says() == "cached first"


def test_a_task_that_lost_its_lock_is_tried_again_and_takes_what_the_other_made(ledger_url, monkeypatch):
    from prefect import flow
    from prefect.testing.utilities import prefect_test_harness
    from prefect.transactions import get_transaction

    from tasks.runtime.stage import stage_task

    monkeypatch.setenv("STILLHOUSE_LEDGER_URL", ledger_url)
    current_settings.cache_clear()
    connect.cache_clear()
    lost = []

    def overtake(transaction):
        """Be another host: take the stage over and commit it."""
        settings, database = current_settings(), LedgerDatabase(ledger_url)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM leases")  # as if it had been over
        theirs = LeaseLocks(LeaseRows(database, 15.0))
        lock = theirs.acquire(stage_lock(transaction.key), timeout_s=0)
        record = transaction.store.create_result_record(key=transaction.key, obj="theirs").serialize()
        commits = LeasedCommits(database, theirs)
        place = commits.new_place(transaction.key)
        LocalRecords(settings.store_root).write(place, record)
        commits.commit(transaction.key, place)
        lock.release()

    @stage_task(sources=lambda inputs: [])
    def compute(seed: int) -> str:
        if not lost:
            overtake(get_transaction())
            with pytest.raises(LockLostError) as caught:
                require_stage_lock()
            lost.append(caught.value)
            raise caught.value
        return "ours, again"

    @flow
    def run() -> tuple[str, str]:
        return compute(1), compute(2)

    with prefect_test_harness(server_startup_timeout=240):
        assert run() == ("theirs", "ours, again")
