"""Leases in a real PostgreSQL, between real processes that are killed, frozen, and told a wrong time."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from lease_holder import STAGE, commit, commits_on, entry, locks_on  # noqa: E402 - a module beside this one

from tasks.adapters.ledger import SqlLedger  # noqa: E402
from tasks.contracts.errors import LockLostError, LockTakenError, ServiceUnavailableError  # noqa: E402
from tasks.runtime.locking import stage_lock  # noqa: E402
from tasks.runtime.services import connect  # noqa: E402
from tasks.runtime.settings import Settings  # noqa: E402

LENGTH_S = 3.0
"""Long enough that a loaded machine renews in time."""
PROMOTION = "promotion/digits"


class Holder:
    """The program `lease_holder.py`, told what to do."""

    def __init__(self, url, name, skew_s=0.0):
        command = [sys.executable, HERE / "lease_holder.py", url, name, str(LENGTH_S), str(skew_s)]
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "held"

    def answer(self):
        return self.process.stdout.readline().strip()

    def tell(self, command):
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        """Let it leave its block, and return what it says to that."""
        out, _ = self.process.communicate(timeout=60)
        return out.strip()

    def signal(self, number):
        self.process.send_signal(number)


@pytest.fixture
def start(ledger_url):
    started = []

    def start_holder(name, skew_s=0.0):
        started.append(Holder(ledger_url, name, skew_s))
        return started[-1]

    yield start_holder
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


@pytest.fixture
def locks(ledger_url):
    return locks_on(ledger_url, LENGTH_S)


def test_one_at_a_time_holds_a_lock_and_the_table_says_who(ledger_url, postgres_server, locks):
    others = locks_on(ledger_url, LENGTH_S)
    with locks.hold("a"):
        with pytest.raises(LockTakenError, match=rf"'a' is held by .*:{os.getpid()} for \d+ s"):
            others.acquire("a", timeout_s=0)
        assert (others.is_taken("a"), others.is_taken("b")) == (True, False)
        ((holder,),) = postgres_server.query(ledger_url, "SELECT holder FROM leases")
        assert holder.endswith(f":{os.getpid()}")
    others.acquire("a", timeout_s=0).release()
    assert postgres_server.query(ledger_url, "SELECT * FROM leases") == []


def test_many_threads_pass_one_lock_on_and_are_never_two_inside(ledger_url):
    inside, most, turns = [0], [0], []
    guard = threading.Lock()

    def work(number):
        mine = locks_on(ledger_url, LENGTH_S)
        for _ in range(3):
            with mine.hold("a"):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                with guard:
                    inside[0] -= 1
                turns.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1]
    assert sorted(turns) == sorted([*range(4)] * 3)


def test_a_renewal_counts_from_the_databases_clock(ledger_url, postgres_server, locks, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    lock = locks.acquire("a")
    lock.require()

    ((left_s,),) = postgres_server.query(
        ledger_url, "SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM leases"
    )
    lock.release()

    assert LENGTH_S - 2 < left_s <= LENGTH_S


def test_a_record_is_the_stages_only_by_who_holds_its_lock(ledger_url, postgres_server, locks):
    others = locks_on(ledger_url, LENGTH_S)
    ours, theirs = commits_on(ledger_url, locks), commits_on(ledger_url, others)
    lost = locks.acquire(stage_lock(STAGE))
    assert ours.place(STAGE) == STAGE, "records of the time before the store was shared count"
    postgres_server.query(ledger_url, "UPDATE leases SET token = 'nobody'")

    with pytest.raises(LockLostError):
        commit(ours)
    assert theirs.place(STAGE) == STAGE

    postgres_server.query(ledger_url, "DELETE FROM leases")
    lock = others.acquire(stage_lock(STAGE), timeout_s=0)
    place = commit(theirs)
    with pytest.raises(LockLostError):
        commit(ours)
    assert ours.place(STAGE) == place == f"{STAGE}/{lock.token}"
    lock.release()
    lost.release()


def test_locks_and_commits_follow_the_ledger_to_postgresql_and_stay_files_without_it(ledger_url, tmp_path):
    shared = connect(Settings(home=tmp_path / "one", ledger_url=ledger_url))
    local = connect(Settings(home=tmp_path / "two"))

    assert [type(one).__name__ for one in (shared.locks, shared.commits)] == ["LeaseLocks", "LeasedCommits"]
    assert [type(one).__name__ for one in (local.locks, local.commits)] == ["FileLocks", "OneRecord"]
    assert type(shared.host_locks) is type(local.host_locks) is type(local.locks)
    with shared.locks.hold(PROMOTION):
        assert shared.ledger.append(entry("a")).sequence == 1


@pytest.mark.slow
def test_the_next_goes_on_within_seconds_when_the_holder_is_killed(start, locks):
    holder = start("a")
    holder.signal(signal.SIGKILL)
    killed = time.monotonic()

    locks.acquire("a", timeout_s=60).release()

    assert time.monotonic() - killed < LENGTH_S + 2


@pytest.mark.slow
@pytest.mark.parametrize("skew_s", [300.0, -300.0])
def test_a_host_whose_clock_is_five_minutes_wrong_neither_keeps_nor_loses_a_lock(start, locks, monkeypatch, skew_s):
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - skew_s)
    holder = start("a", skew_s)

    with pytest.raises(LockTakenError):
        locks.acquire("a", timeout_s=2 * LENGTH_S)
    assert holder.tell("require") == "done"

    holder.signal(signal.SIGKILL)
    killed = time.monotonic()
    locks.acquire("a", timeout_s=60).release()
    assert time.monotonic() - killed < LENGTH_S + 2


@pytest.mark.slow
@pytest.mark.parametrize("still_held", [True, False])
def test_a_frozen_holder_that_wakes_up_writes_nothing_to_the_ledger(start, ledger_url, locks, still_held):
    ledger = SqlLedger(ledger_url, locks.pin_held)
    ledger.append(entry("a"))
    holder = start(PROMOTION)
    holder.signal(signal.SIGSTOP)
    lock = locks.acquire(PROMOTION, timeout_s=60)
    if not still_held:
        lock.release()

    holder.signal(signal.SIGCONT)

    assert holder.tell("append") == "LockLostError"
    assert holder.tell("tick") == "LockLostError"
    assert holder.end() == "LockLostError"
    assert [row.candidate[0] for row in ledger.history("digits")] == ["a"]
    assert ledger.latest_tick("digits") is None
    if still_held:
        lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("still_held", [True, False])
def test_a_frozen_holder_that_wakes_up_commits_no_record(start, ledger_url, locks, still_held):
    holder = start(stage_lock(STAGE))
    holder.signal(signal.SIGSTOP)
    lock = locks.acquire(stage_lock(STAGE), timeout_s=60)
    place = commit(commits_on(ledger_url, locks))
    if not still_held:
        lock.release()

    holder.signal(signal.SIGCONT)

    assert holder.tell("commit") == "LockLostError"
    assert holder.tell("release") == "done"
    assert commits_on(ledger_url, locks).place(STAGE) == place
    if still_held:
        lock.release()


@pytest.mark.slow
def test_a_holder_keeps_its_lock_when_the_server_is_away_for_longer_than_its_lease(start, postgres_server, locks):
    holder = start(stage_lock(STAGE))
    got = threading.Event()
    waiter = threading.Thread(target=lambda: (locks.acquire(stage_lock(STAGE)).release(), got.set()))
    waiter.start()
    time.sleep(1)  # it has asked

    postgres_server.crash()
    time.sleep(1.5 * LENGTH_S)
    postgres_server.start()

    assert not got.wait(2 * LENGTH_S), "the holder lives, and had one length to renew"
    assert holder.tell("commit") == "done"
    assert holder.tell("release") == "done"
    assert got.wait(30)
    waiter.join()


@pytest.mark.slow
def test_the_next_goes_on_when_the_holder_died_while_the_server_was_away(start, postgres_server, locks):
    holder = start("a")
    locks.is_taken("a")
    postgres_server.crash()
    holder.signal(signal.SIGKILL)
    with pytest.raises(ServiceUnavailableError, match="STILLHOUSE_LEDGER_URL"):
        locks.acquire("a", timeout_s=0)
    postgres_server.start()
    begun = time.monotonic()

    locks.acquire("a", timeout_s=60).release()

    assert time.monotonic() - begun < LENGTH_S + 3


@pytest.mark.slow
def test_a_process_that_freezes_within_a_transaction_does_not_keep_the_others_for_ever(
    ledger_url, postgres_server, locks, monkeypatch
):
    monkeypatch.setattr("tasks.adapters.ledger_database._IDLE_LIMIT_S", 1)
    ledger = SqlLedger(ledger_url, locks.pin_held)
    ledger.append(entry("a"))

    def freeze():
        with locks.hold(PROMOTION), ledger._database.writing() as connection:
            ledger._fence(connection)
            frozen.set()
            woken.wait(60)
            connection.exec_driver_sql("SELECT 1")

    frozen, woken = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(freeze)
        frozen.wait(60)
        postgres_server.query(ledger_url, "DELETE FROM leases")  # waits for the frozen transaction, as a take-over does
        woken.set()
        with pytest.raises(ServiceUnavailableError, match="idle-in-transaction"):
            outcome.result()
