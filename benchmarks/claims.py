"""What is found of the decisions in many runs, beside what may be: a row of the table for each claim."""

import os
from collections.abc import Iterator

import numpy as np

from benchmarks.result import Figure, figure, rate, share

SHARE_VARIABLE = "BENCHMARK_SHARE"
"""Environment variable: the share of all runs that is simulated, 1 if not given; for trying it out."""
_FOUND, _AT_MOST, _AT_LEAST, _COMPUTED, _RUNS = "found", "at most", "at least", "computed", "runs"


def counted(
    subject: str,
    successes: int,
    runs: int,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    computed: float | None = None,
) -> list[Figure]:
    """State how often it was so, and how often it may be, should be, or is by the product's own computation.

    Args:
        subject: what was counted, of what.
        successes: runs in which it was so.
        runs: all of them.
        at_most: a share, as a fraction.
        at_least: a share, as a fraction.
        computed: a share, as a fraction.
    """
    beside = ((_AT_MOST, at_most), (_AT_LEAST, at_least), (_COMPUTED, computed))
    return [
        share(_FOUND, successes, runs, subject=subject),
        *(figure(name, "%", [100.0 * value], subject=subject) for name, value in beside if value is not None),
        figure(_RUNS, "", [runs], subject=subject),
    ]


def counted_a_month(subject: str, events: int, months: float, at_most: float) -> list[Figure]:
    """State how many there were a month, of so many months, and how many there may be."""
    return [
        rate(_FOUND, "a month", events, months, subject=subject),
        figure(_AT_MOST, "a month", [at_most], subject=subject),
        figure(_RUNS, "months", [months], subject=subject),
    ]


def took(subject: str, unit: str, samples: list[int]) -> list[Figure]:
    """State how long it took, median and extremes of the runs in which it came about; nothing if there are none."""
    if not samples:
        return []
    return [figure(_FOUND, unit, samples, subject=subject), figure(_RUNS, "", [len(samples)], subject=subject)]


def num_runs(whole: int) -> int:
    """Return how many runs are simulated where the whole benchmark simulates `whole`."""
    return max(1, round(whole * float(os.environ.get(SHARE_VARIABLE) or 1.0)))


def generators(seed: int, part: str, num: int) -> Iterator[np.random.Generator]:
    """Yield a generator for each run of a part: the same whatever the other parts draw."""
    for run in range(num):
        yield np.random.default_rng([seed, *part.encode(), run])
