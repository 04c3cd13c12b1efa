"""What a benchmark leaves behind: figures that were measured side by side in one run, and where."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from scipy.special import gammaincinv

from tasks.contracts.evaluation import Machine
from tasks.contracts.value import Slug, Value
from tasks.decisions.window_rates import exact_bounds
from tasks.evaluation.machine import current_machine

RATIO = "x"
"""Unit of a ratio."""
_VERSIONS = ("mlflow", "onnxruntime", "prefect", "scipy", "starlette", "stillhouse", "torch", "uvicorn")
_NUM_BLOCKS = 10
_ONE_TAIL = 0.025


class Figure(Value):
    """One measured quantity. A count that was taken once has one repeat, and minimum = median = maximum."""

    name: str
    unit: str
    """`x` for a ratio, else `ms`, `bytes`, `requests` and so on; empty for an ordinal."""
    num_repeats: int
    min: float
    median: float
    max: float
    mean: float | None = None
    """Of the repeats; none in results that were written before it was kept."""
    subject: str = ""
    """What it is a figure of, where several things are measured alike: these stand in a table, one row each."""
    supporting: bool = False
    """An absolute figure that a ratio was made of: kept in the JSON file, left out of the tables."""
    interval: tuple[float, float] | None = None
    """Of a share or a rate that was counted: its exact 95 % interval, which stands in place of the extremes."""


class BenchmarkResult(Value):
    """One benchmark on one machine."""

    name: Slug
    question: str
    setup: str
    """What was run against what, in a sentence or two."""
    measured_on: str
    """UTC date, ISO 8601."""
    seconds: float
    """Wall time of the whole benchmark."""
    seeds: dict[str, int]
    machine: Machine
    versions: dict[str, str]
    figures: tuple[Figure, ...]
    remark: str = ""
    """What whoever measured says of this run: other load, say. Empty for a quiet machine."""


class Findings(Value):
    """What a benchmark module returns; `described` adds where and when."""

    question: str
    setup: str
    seeds: dict[str, int]
    figures: tuple[Figure, ...]


def described(name: Slug, findings: Findings, seconds: float) -> BenchmarkResult:
    """Add the date, the machine and the versions to what was found."""
    return BenchmarkResult(
        name=name,
        measured_on=datetime.now(UTC).date().isoformat(),
        seconds=round(seconds, 1),
        machine=current_machine(),
        versions={package: version(package) for package in _VERSIONS},
        question=findings.question,
        setup=findings.setup,
        seeds=findings.seeds,
        figures=findings.figures,
    )


def figure(
    name: str, unit: str, samples: Sequence[float] | np.ndarray, *, subject: str = "", supporting: bool = False
) -> Figure:
    """Summarise samples [repeats].

    Raises:
        ValueError: there are none.
    """
    if not len(samples):
        raise ValueError(f"figure {name!r} has no samples")
    values = np.asarray(samples, np.float64)
    low, middle, high = (_rounded(value) for value in np.quantile(values, (0.0, 0.5, 1.0)))
    return Figure(
        name=name,
        unit=unit,
        num_repeats=len(samples),
        min=low,
        median=middle,
        max=high,
        mean=_rounded(values.mean()),
        subject=subject,
        supporting=supporting,
    )


def share(name: str, successes: int, runs: int, *, subject: str = "") -> Figure:
    """State in percent how many of `runs` ended so, with the exact 95 % interval (Clopper & Pearson 1934).

    Raises:
        ValueError: there were no runs.
    """
    if not runs:
        raise ValueError(f"share {name!r} has no runs")
    low, high = exact_bounds(successes, runs, _ONE_TAIL)
    return _counted(name, "%", 100.0 * successes / runs, (100.0 * low, 100.0 * high), runs, subject)


def rate(name: str, unit: str, events: int, exposure: float, *, subject: str = "") -> Figure:
    """State the events for each unit of exposure, with the exact 95 % interval of a Poisson count (Garwood 1936).

    Args:
        name: of the figure.
        unit: such as `a month`.
        events: how many were counted.
        exposure: in units: the months, above 0.
        subject: see `Figure`.
    """
    low = float(gammaincinv(events, _ONE_TAIL)) if events else 0.0
    high = float(gammaincinv(events + 1, 1.0 - _ONE_TAIL))
    return _counted(name, unit, events / exposure, (low / exposure, high / exposure), 1, subject)


def _counted(
    name: str, unit: str, value: float, interval: tuple[float, float], num_repeats: int, subject: str
) -> Figure:
    made = figure(name, unit, [value], subject=subject)
    low, high = interval
    return made.model_copy(update={"num_repeats": num_repeats, "interval": (_rounded(low), _rounded(high))})


def ratio(name: str, numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> Figure:
    """Summarise numerator / denominator of samples [repeats] that were taken in turns.

    Ratios of single samples have the extremes of the machine's hiccups, so consecutive samples are first
    joined: each of the figure's repeats is the ratio of the medians of one of ten blocks.

    Raises:
        ValueError: the two have different lengths, or fewer than one sample for a block.
    """
    if len(numerators) != len(denominators) or len(numerators) < _NUM_BLOCKS:
        raise ValueError(
            f"ratio {name!r} needs as many numerators as denominators and at least {_NUM_BLOCKS} of each, "
            f"got {len(numerators)} and {len(denominators)}"
        )
    above, below = (_block_medians(np.asarray(values, np.float64)) for values in (numerators, denominators))
    return figure(name, RATIO, above / below)


def _block_medians(samples: np.ndarray) -> np.ndarray:
    return np.array([np.median(block) for block in np.array_split(samples, _NUM_BLOCKS)])


def _rounded(value: float) -> float:
    """Keep four significant digits: no benchmark is more exact than that."""
    return float(f"{value:.4g}")
