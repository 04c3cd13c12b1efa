"""Interleaved timing of several models on the same rows, so that they differ in nothing but the model.

Whatever slows the machine for a while (another process, heat, a clock change) then hits all models
alike, and samples of one position can be compared as pairs.
"""

import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import LATENCY_BATCH_SIZES, LatencyQuantiles
from tasks.evaluation.runners import Runner, answer

Samples = dict[int, np.ndarray]
"""Milliseconds of each repeat, float64 [repeats], by batch size."""

_NUM_WARM_UPS = 5


@dataclass(frozen=True, kw_only=True)
class TimingBudget:
    """How much is timed. The limits of `repeats` hold even where the time is then over- or underspent."""

    seconds: float = 6.0
    """Wall time for all models and batch sizes together."""
    max_repeats: int = 300
    min_repeats: int = 30


def time_interleaved(
    runners: Mapping[str, Runner],
    x: np.ndarray,
    *,
    seed: int,
    batch_sizes: tuple[int, ...] = LATENCY_BATCH_SIZES,
    budget: TimingBudget | None = None,
) -> dict[str, Samples]:
    """Time one request (see `tasks.evaluation.runners.answer`) of every model, again and again.

    Each repeat draws one batch of rows and times every model on it, in an order that is drawn anew.
    Just before it is timed, a model answers the same batch untimed: else a small model would be
    measured with its weights driven out of the processor's cache by whichever big one ran before it,
    and its figure would depend on the company that it was measured in.

    Args:
        runners: Loaded models by a name of the caller's choice.
        x: Rows [N, *input_shape] to draw from, with repetition where N is smaller than a batch.
        seed: For the rows and the orders.
        batch_sizes: Rows per request.
        budget: How much to time.

    Returns:
        Per model, samples that are paired by position across all models.

    Raises:
        DataError: there are no rows.
    """
    if not len(x):
        raise DataError("timing needs rows; the split is empty")
    budget = budget or TimingBudget()
    rng = np.random.default_rng(seed)
    samples: dict[str, Samples] = {name: {} for name in runners}
    remaining_s = budget.seconds
    with steady_process():
        for position, batch_size in enumerate(batch_sizes):
            started = time.perf_counter()
            share_s = remaining_s / (len(batch_sizes) - position)
            for name, milliseconds in _time_batch_size(runners, x, batch_size, rng, share_s, budget).items():
                samples[name][batch_size] = milliseconds
            remaining_s = max(0.0, remaining_s - (time.perf_counter() - started))
    return samples


def quantiles(milliseconds: np.ndarray) -> LatencyQuantiles:
    """Return p50, p95 and p99 of samples, interpolated linearly between order statistics."""
    p50, p95, p99 = (float(value) for value in np.quantile(milliseconds, (0.50, 0.95, 0.99)))
    return LatencyQuantiles(p50=p50, p95=p95, p99=p99)


def throughput_per_s(samples: Samples) -> float:
    """Return rows a second on one thread, at the batch size that does best, from the median times."""
    return max(1e3 * batch_size / float(np.median(milliseconds)) for batch_size, milliseconds in samples.items())


@contextmanager
def steady_process() -> Iterator[None]:
    """Keep this process from disturbing its own timing, and undo it afterwards.

    No garbage collection, the calling thread on one CPU (where the system lets it), torch on one thread.
    """
    collects, threads = gc.isenabled(), _torch_threads()
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    gc.collect()
    gc.disable()
    _set_torch_threads(1)
    if cpus:
        os.sched_setaffinity(0, {max(cpus)})  # the first CPU is the one that most interrupts go to
    try:
        yield
    finally:
        if cpus:
            os.sched_setaffinity(0, cpus)
        _set_torch_threads(threads)
        if collects:
            gc.enable()


def _time_batch_size(
    runners: Mapping[str, Runner],
    x: np.ndarray,
    batch_size: int,
    rng: np.random.Generator,
    seconds: float,
    budget: TimingBudget,
) -> dict[str, np.ndarray]:
    names = list(runners)
    round_s = _warm_up(runners, _draw(x, batch_size, rng))
    num_repeats = int(np.clip(seconds / max(round_s, 1e-9), budget.min_repeats, budget.max_repeats))
    elapsed_ns = {name: np.empty(num_repeats, dtype=np.int64) for name in names}
    for repeat in range(num_repeats):
        rows = _draw(x, batch_size, rng)
        for index in rng.permutation(len(names)):
            runner = runners[names[index]]
            answer(runner, rows)
            started_ns = time.perf_counter_ns()
            answer(runner, rows)
            elapsed_ns[names[index]][repeat] = time.perf_counter_ns() - started_ns
    return {name: values / 1e6 for name, values in elapsed_ns.items()}


def _warm_up(runners: Mapping[str, Runner], rows: np.ndarray) -> float:
    """Let runtimes allocate and caches fill; return the seconds that one repeat will take."""
    for runner in runners.values():
        answer(runner, rows)
    started = time.perf_counter()
    for runner in runners.values():
        for _ in range(_NUM_WARM_UPS):
            answer(runner, rows)
    return 2.0 * (time.perf_counter() - started) / _NUM_WARM_UPS


def _draw(x: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    return x[rng.integers(len(x), size=batch_size)]


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else None


def _set_torch_threads(num_threads: int | None) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and num_threads is not None:
        torch.set_num_threads(num_threads)
