"""Waiting, keeping and losing leases, on a table in memory whose clock and failures the test decides."""

import logging
import threading
import time

import pytest

from tasks.adapters import lease_locks
from tasks.adapters.lease_locks import LeaseLocks
from tasks.adapters.lease_rows import Holder
from tasks.contracts.errors import LockLostError, LockTakenError, ServiceUnavailableError

LENGTH_S = 30.0


class Rows:
    """A table of leases; `now` is the clock of its database."""

    def __init__(self, length_s=LENGTH_S):
        self.now, self.length_s = 0.0, length_s
        self.rows = {}
        self.is_down = False
        self.loses_answers = False
        self.renewals = 0

    def take(self, name, token, holder):
        self._reach()
        row = self.rows.get(name)
        if row is not None and row[0] != token and row[2] > self.now:
            return False
        self.rows[name] = (token, holder, self.now + self.length_s)
        self._answer()
        return True

    def renew(self, name, token):
        self._reach()
        self.renewals += 1
        if not self.pin(None, name, token):
            return False
        self.rows[name] = (*self.rows[name][:2], self.now + self.length_s)
        return True

    def give_back(self, name, token):
        self._reach()
        mine = self.pin(None, name, token)
        if mine:
            del self.rows[name]
        return mine

    def holder(self, name):
        self._reach()
        row = self.rows.get(name)
        return Holder(row[1], 7) if row is not None and row[2] > self.now else None

    def pin(self, connection, name, token):
        return name in self.rows and self.rows[name][0] == token

    def _reach(self):
        if self.is_down:
            raise ServiceUnavailableError("away")

    def _answer(self):
        if self.loses_answers:
            raise ServiceUnavailableError("cut off before the answer came")


@pytest.fixture
def rows():
    return Rows()


def locks_on(rows):
    return LeaseLocks(rows)


@pytest.fixture
def ours(rows):
    return locks_on(rows)


@pytest.fixture
def theirs(rows):
    return locks_on(rows)


def overtake(rows, theirs, name):
    rows.now += LENGTH_S + 1
    return theirs.acquire(name, timeout_s=0)


def test_acquire_says_who_holds_the_lock_when_it_is_not_to_wait(ours, theirs):
    lock = ours.acquire("a")

    with pytest.raises(LockTakenError, match=r"'a' is held by .+:\d+ for 7 s"):
        theirs.acquire("a", timeout_s=0)
    assert theirs.is_taken("a")

    lock.release()
    assert not theirs.is_taken("a")
    theirs.acquire("a", timeout_s=0).release()


def test_acquire_gives_up_after_its_timeout_and_leaves_nothing_behind(rows, ours, theirs):
    lock = ours.acquire("a")
    begun = time.monotonic()

    with pytest.raises(LockTakenError, match=r"0\.2 s"):
        theirs.acquire("a", timeout_s=0.2)

    assert time.monotonic() - begun >= 0.2
    lock.release()
    assert rows.rows == {}


def test_acquire_goes_on_when_the_holder_gives_the_lock_back(ours, theirs):
    lock = ours.acquire("a")
    threading.Timer(0.1, lock.release).start()

    theirs.acquire("a", timeout_s=10).release()


def test_a_lease_is_renewed_by_its_holder_as_long_as_it_is_held():
    rows = Rows(length_s=0.15)
    lock = locks_on(rows).acquire("a")

    while rows.renewals < 3:
        time.sleep(0.01)
    lock.release()

    renewals = rows.renewals
    time.sleep(0.2)
    assert rows.renewals <= renewals + 1  # one may have been on its way


def test_a_lease_that_is_over_is_taken_over_and_its_holder_told(rows, ours, theirs, caplog):
    lock = ours.acquire("a")
    other = overtake(rows, theirs, "a")

    with pytest.raises(LockLostError, match=r"'a' was taken over"):
        lock.require()
    with caplog.at_level(logging.WARNING):
        lock.release()  # in peace: Prefect releases within its commit
    assert "was taken over" in caplog.text
    other.require()
    other.release()


def test_a_lease_that_is_over_stays_its_holders_when_nobody_took_it(rows, ours, theirs):
    lock = ours.acquire("a")
    rows.now += LENGTH_S + 1

    lock.require()

    with pytest.raises(LockTakenError):
        theirs.acquire("a", timeout_s=0)
    lock.release()


def test_a_holder_goes_on_renewing_when_the_database_was_away_for_longer_than_the_lease():
    rows = Rows(length_s=0.3)
    lock = locks_on(rows).acquire("a")
    rows.is_down = True
    rows.now += 10 * rows.length_s
    time.sleep(0.3)

    before, rows.is_down = rows.renewals, False
    while rows.renewals == before:
        time.sleep(0.01)

    with pytest.raises(LockTakenError):
        locks_on(rows).acquire("a", timeout_s=0)
    lock.release()


def test_the_keeper_notices_a_loss_by_itself(caplog):
    rows = Rows(length_s=0.15)
    lock = locks_on(rows).acquire("a")
    rows.rows["a"] = ("another", "elsewhere:1", rows.now + 1)

    while "was taken over" not in caplog.text:
        time.sleep(0.01)
    rows.is_down = True  # it need not ask again
    with pytest.raises(LockLostError):
        lock.require()


def test_hold_fails_at_its_end_when_the_lock_was_lost_meanwhile(rows, ours, theirs):
    def work():
        with ours.hold("a"):
            overtake(rows, theirs, "a")

    with pytest.raises(LockLostError):
        work()

    assert rows.rows["a"], "the other's lease was not touched"


def test_hold_lets_the_blocks_own_error_through_when_the_lock_was_lost_too(rows, ours, theirs):
    def work():
        with ours.hold("a"):
            overtake(rows, theirs, "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_writes_are_refused_inside_of_a_lost_lock_and_nowhere_else(rows, ours, theirs):
    def work():
        with ours.hold("outer"), ours.hold("inner"):
            ours.pin_held(None)
            overtake(rows, theirs, "outer")
            with pytest.raises(LockLostError, match="'outer'"):
                ours.pin_held(None)

    ours.pin_held(None)
    with pytest.raises(LockLostError):
        work()
    ours.pin_held(None)


def test_a_record_is_written_under_the_token_of_the_lock_and_only_while_it_is_held(rows, ours):
    with pytest.raises(LockLostError, match="not held by this process"):
        ours.token("a")
    lock = ours.acquire("a")

    ours.pin(None, "a", ours.token("a"))

    assert ours.token("a") == lock.token
    lock.release()
    with pytest.raises(LockLostError):
        ours.token("a")


def test_acquire_fails_at_once_when_the_database_never_answered(rows, ours):
    rows.is_down = True

    with pytest.raises(ServiceUnavailableError, match="away"):
        ours.acquire("a")


def test_a_wait_bears_an_outage_that_is_short(rows, ours, theirs):
    lock = ours.acquire("a")
    rows_seen = threading.Event()
    done = []

    def wait():
        done.append(theirs.acquire("a", timeout_s=30))

    thread = threading.Thread(target=wait)
    thread.start()
    rows_seen.wait(0.2)
    rows.is_down = True
    rows_seen.wait(0.3)
    rows.is_down = False
    lock.release()
    thread.join(timeout=30)

    assert done[0].token == rows.rows["a"][0]
    done[0].release()


def test_a_wait_fails_when_the_outage_is_long(rows, ours, theirs, monkeypatch):
    monkeypatch.setattr(lease_locks, "_OUTAGE_OF_A_WAIT_S", 0.2)
    ours.acquire("a")
    threading.Timer(0.1, setattr, (rows, "is_down", True)).start()

    with pytest.raises(ServiceUnavailableError):
        theirs.acquire("a", timeout_s=30)


def test_a_lock_whose_granting_was_lost_on_its_way_is_not_left_behind(rows, ours):
    rows.loses_answers = True

    with pytest.raises(ServiceUnavailableError):
        ours.acquire("a")

    assert rows.rows == {}


def test_require_waits_out_an_outage(rows, ours):
    lock = ours.acquire("a")
    rows.is_down = True
    threading.Timer(0.3, setattr, (rows, "is_down", False)).start()

    lock.require()
    lock.release()


def test_release_says_that_the_lock_frees_itself_when_the_database_is_away(rows, ours, caplog):
    lock = ours.acquire("a")
    rows.is_down = True

    lock.release()

    assert "frees itself within 30 s" in caplog.text
