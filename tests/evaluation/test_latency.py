import gc
import os

import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.evaluation.latency import TimingBudget, quantiles, steady_process, throughput_per_s, time_interleaved
from tasks.evaluation.runners import Runner

X = np.arange(40, dtype=np.float32).reshape(20, 2)
NUM_REPEATS = 12
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""What this process may use before any test has timed anything."""
EXACTLY = TimingBudget(seconds=0.0, min_repeats=NUM_REPEATS, max_repeats=NUM_REPEATS)


class Journal:
    """A model that writes its name and its rows into a journal shared by all."""

    def __init__(self, name: str, journal: list[tuple[str, np.ndarray]]) -> None:
        self.name = name
        self.journal = journal

    def run(self, rows: np.ndarray) -> np.ndarray:
        self.journal.append((self.name, rows))
        return rows


class Worker:
    """A model whose work is a number of matrix products."""

    def __init__(self, num_products: int) -> None:
        self.num_products = num_products
        self.matrix = np.eye(32, dtype=np.float32)

    def run(self, rows: np.ndarray) -> np.ndarray:
        for _ in range(self.num_products):
            self.matrix @ self.matrix
        return rows


def timed_calls(seed: int, batch_size: int) -> list[tuple[str, np.ndarray]]:
    """Return the calls of the repeats alone, without those of the warm-up."""
    journal: list[tuple[str, np.ndarray]] = []
    runners: dict[str, Runner] = {name: Journal(name, journal) for name in "abc"}
    time_interleaved(runners, X, seed=seed, batch_sizes=(batch_size,), budget=EXACTLY)
    return journal[-NUM_REPEATS * len(runners) * 2 :]


def test_time_interleaved_times_every_model_once_on_the_same_rows_in_each_repeat():
    calls = timed_calls(seed=0, batch_size=3)
    for start in range(0, len(calls), 6):
        repeat = calls[start : start + 6]
        assert sorted(name for name, _ in repeat[1::2]) == ["a", "b", "c"]
        assert [name for name, _ in repeat[::2]] == [name for name, _ in repeat[1::2]]  # settled, then timed
        assert all(np.array_equal(rows, repeat[0][1]) for _, rows in repeat)
        assert repeat[0][1].shape == (3, 2)


def test_time_interleaved_draws_orders_and_rows_from_the_seed():
    def orders_and_rows(seed: int) -> tuple[list[str], np.ndarray]:
        names, rows = zip(*timed_calls(seed, batch_size=2), strict=True)
        return list(names), np.stack(rows)

    names, rows = orders_and_rows(seed=1)
    assert len({tuple(names[start : start + 6]) for start in range(0, len(names), 6)}) > 1
    assert len({rows[start].tobytes() for start in range(0, len(rows), 6)}) > 1
    again_names, again_rows = orders_and_rows(seed=1)
    assert again_names == names
    np.testing.assert_array_equal(again_rows, rows)
    assert orders_and_rows(seed=2)[0] != names


def test_time_interleaved_gives_paired_samples_for_every_model_and_batch_size():
    samples = time_interleaved({"a": Worker(1), "b": Worker(2)}, X, seed=0, batch_sizes=(1, 64), budget=EXACTLY)
    assert set(samples) == {"a", "b"}
    for of_model in samples.values():
        assert list(of_model) == [1, 64]
        for milliseconds in of_model.values():
            assert milliseconds.shape == (NUM_REPEATS,)
            assert milliseconds.dtype == np.float64
            assert (milliseconds > 0).all()


def test_time_interleaved_finds_the_slower_model_when_it_does_fifty_times_the_work():
    samples = time_interleaved({"slow": Worker(1000), "fast": Worker(20)}, X, seed=0, batch_sizes=(1,), budget=EXACTLY)
    assert np.median(samples["slow"][1]) > 5 * np.median(samples["fast"][1])


def test_time_interleaved_repeats_less_when_the_budget_is_short_and_never_less_than_the_least():
    def num_repeats(seconds: float) -> int:
        budget = TimingBudget(seconds=seconds, min_repeats=3, max_repeats=200)
        return len(time_interleaved({"a": Worker(500)}, X, seed=0, batch_sizes=(1,), budget=budget)["a"][1])

    assert num_repeats(0.0) == 3
    assert num_repeats(60.0) == 200
    assert 3 <= num_repeats(0.02) < 200


def test_time_interleaved_refuses_when_there_are_no_rows():
    with pytest.raises(DataError, match="empty"):
        time_interleaved({"a": Worker(1)}, X[:0], seed=0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its CPU")
def test_steady_process_keeps_to_one_cpu_and_gives_the_others_back_when_the_work_fails():
    def fail_after_noting(seen: list[set[int]]) -> None:
        with steady_process():
            seen.append(os.sched_getaffinity(0))
            raise ZeroDivisionError

    seen: list[set[int]] = []
    with pytest.raises(ZeroDivisionError):
        fail_after_noting(seen)
    assert seen == [{max(CPUS)}]
    assert os.sched_getaffinity(0) == CPUS


def test_steady_process_collects_no_garbage_meanwhile_and_leaves_the_collector_as_it_was():
    with steady_process():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with steady_process():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_steady_process_runs_torch_on_one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with steady_process():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_quantiles_interpolate_between_order_statistics():
    found = quantiles(np.arange(101, dtype=np.float64)[::-1])
    assert (found.p50, found.p95, found.p99) == (50.0, 95.0, 99.0)
    assert quantiles(np.array([1.0, 2.0])).p50 == 1.5


def test_throughput_per_s_is_that_of_the_best_batch_size():
    samples = {1: np.array([1.0, 1.0, 9.0]), 8: np.array([2.0, 2.0, 2.0]), 32: np.array([16.0])}
    assert throughput_per_s(samples) == 8 / 0.002
