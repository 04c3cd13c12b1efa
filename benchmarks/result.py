"""What a benchmark leaves behind: figures that were measured side by side in one run, and where."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from tasks.contracts.evaluation import Machine
from tasks.contracts.value import Slug, Value
from tasks.evaluation.machine import current_machine

RATIO = "x"
"""Unit of a ratio."""
_VERSIONS = ("mlflow", "onnxruntime", "prefect", "starlette", "stillhouse", "torch", "uvicorn")
_NUM_BLOCKS = 10


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
