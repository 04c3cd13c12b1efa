import logging
import threading

import pytest

from infra.webhooks.worker import ReconcileWorker

WAIT_S = 10.0


class Reconciler:
    """Notes what it is called with; while `held`, a call stays in it."""

    def __init__(self):
        self.done = []
        self.started, self.going_on = threading.Semaphore(0), threading.Semaphore(0)
        self.finished = threading.Semaphore(0)

    def __call__(self, name):
        self.started.release()
        assert self.going_on.acquire(timeout=WAIT_S)
        self.done.append(name)
        self.finished.release()
        if name == "broken":
            raise RuntimeError("the registry is away")


@pytest.fixture
def reconciler():
    return Reconciler()


@pytest.fixture
def worker(reconciler):
    worker = ReconcileWorker(reconciler, limit=2)
    worker.start()
    yield worker
    for _ in range(10):
        reconciler.going_on.release()
    worker.stop()


def test_worker_reconciles_a_model_once_for_many_events_that_wait(worker, reconciler):
    worker.submit("a")
    assert reconciler.started.acquire(timeout=WAIT_S)
    assert [worker.submit("b") for _ in range(50)] == [True] * 50
    assert worker.num_waiting == 1
    for _ in range(2):
        reconciler.going_on.release()
        assert reconciler.finished.acquire(timeout=WAIT_S)

    assert reconciler.done == ["a", "b"]


def test_worker_reconciles_again_when_an_event_comes_while_it_works(worker, reconciler):
    worker.submit("a")
    assert reconciler.started.acquire(timeout=WAIT_S)
    worker.submit("a")
    for _ in range(2):
        reconciler.going_on.release()
        assert reconciler.finished.acquire(timeout=WAIT_S)

    assert reconciler.done == ["a", "a"]


def test_worker_takes_no_more_models_than_may_wait(worker, reconciler):
    worker.submit("a")
    assert reconciler.started.acquire(timeout=WAIT_S)

    assert [worker.submit(name) for name in ("b", "c", "d", "b")] == [True, True, False, True]


def test_worker_goes_on_when_a_model_cannot_be_reconciled(worker, reconciler, caplog):
    with caplog.at_level(logging.ERROR):
        for name in ("broken", "a"):
            worker.submit(name)
            reconciler.going_on.release()
            assert reconciler.finished.acquire(timeout=WAIT_S)

    assert reconciler.done == ["broken", "a"]
    assert "broken could not be reconciled" in caplog.text


def test_stop_finishes_the_running_model_and_leaves_the_others(reconciler):
    worker = ReconcileWorker(reconciler, limit=2)
    worker.start()
    worker.submit("a")
    assert reconciler.started.acquire(timeout=WAIT_S)
    worker.submit("b")
    reconciler.going_on.release()
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    reconciler.going_on.release()  # should b have begun before
    stopping.join(WAIT_S)

    assert not stopping.is_alive()
    assert reconciler.done[0] == "a"
