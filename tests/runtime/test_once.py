import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.contracts.errors import UserError
from tasks.runtime.once import once
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings

NUM_THREADS = 8


def test_once_makes_one_value_however_many_threads_ask_first() -> None:
    made: list[object] = []
    together = threading.Barrier(NUM_THREADS)

    @once
    def value(name: str) -> object:
        time.sleep(0.01)  # long enough for the others to be here
        made.append(name)
        return object()

    def ask() -> object:
        together.wait()
        return value("a")

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = [one.result() for one in [pool.submit(ask) for _ in range(NUM_THREADS)]]
    assert len(set(map(id, found))) == 1
    assert made == ["a"]
    assert value("b") is not value("a")
    value.cache_clear()
    assert value("a") is not found[0]


def test_once_keeps_no_failure() -> None:
    answers = iter([UserError("not yet"), "made"])

    @once
    def value() -> str:
        answer = next(answers)
        if isinstance(answer, UserError):
            raise answer
        return answer

    with pytest.raises(UserError, match="not yet"):
        value()
    assert (value(), value()) == ("made", "made")


def test_all_threads_of_a_flow_place_their_stages_by_one_placement(tmp_path: Path) -> None:
    """Else each would hand out all processors of the machine."""
    settings = Settings(home=tmp_path)
    together = threading.Barrier(NUM_THREADS)

    def ask() -> object:
        together.wait()
        return connect(settings).placement

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = [one.result() for one in [pool.submit(ask) for _ in range(NUM_THREADS)]]
    assert len(set(map(id, found))) == 1
    assert connect(settings).home_placement is found[0]
