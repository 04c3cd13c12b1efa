import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import LockTakenError

_HOLDER = (
    "import sys; from pathlib import Path; from tasks.adapters.locks import FileLocks\n"
    "FileLocks(Path(sys.argv[1])).acquire('stage'); print('held', flush=True); sys.stdin.read()\n"
)


def test_hold_keeps_a_second_thread_out(tmp_path: Path) -> None:
    locks, entered = FileLocks(tmp_path), threading.Event()

    def second() -> None:
        with locks.hold("stage"):
            entered.set()

    with locks.hold("stage"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(timeout=0.2)
    assert entered.wait(timeout=10)
    thread.join()


def test_hold_does_not_confuse_two_names(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    with locks.hold("a"):
        locks.acquire("b", timeout_s=0).release()


def test_acquire_succeeds_at_once_when_the_holder_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        locks = FileLocks(tmp_path)
        with pytest.raises(LockTakenError):
            locks.acquire("stage", timeout_s=0)
        holder.kill()
        holder.wait()
        locks.acquire("stage", timeout_s=0).release()


def test_hold_says_at_once_that_another_holds_the_lock_when_it_is_not_to_wait(tmp_path):
    locks = FileLocks(tmp_path)
    with locks.hold("a"):
        with pytest.raises(LockTakenError, match="'a'"), locks.hold("a", timeout_s=0):
            pytest.fail("two holders")
        with locks.hold("b", timeout_s=0):
            pass
        assert (locks.is_taken("a"), locks.is_taken("b")) == (True, False)
    with locks.hold("a", timeout_s=0):
        pass


def test_acquire_waits_as_long_as_it_was_told_when_another_holds_the_lock(tmp_path):
    locks = FileLocks(tmp_path)
    held = locks.acquire("a")
    begun = time.monotonic()
    with pytest.raises(LockTakenError, match=r"0\.2 s"):
        locks.acquire("a", timeout_s=0.2)
    assert time.monotonic() - begun >= 0.2
    threading.Timer(0.1, held.release).start()
    locks.acquire("a", timeout_s=10).release()
