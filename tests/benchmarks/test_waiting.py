import time

from benchmarks.waiting import wait


def test_wait_tells_when_it_began_on_the_clock_of_its_caller() -> None:
    called = time.monotonic()
    waited = wait(3, 0.0)
    assert called <= waited.begun <= time.monotonic()
    assert waited.digest == wait(3, 0.0).digest != wait(4, 0.0).digest
