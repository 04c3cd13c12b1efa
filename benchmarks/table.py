"""The Markdown page made from the results' JSON files, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmarks.result import RATIO, BenchmarkResult, Figure
from tasks.adapters.local_store import write_atomically
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import Machine

HEADER = ("| benchmark | figure | median | min to max | repeats |", "| --- | --- | --- | --- | --- |")
_SECTION_HEADER = ("| figure | median | min to max | repeats |", "| --- | --- | --- | --- |")
_HEADLINED = ("fashion-mnist", "clinc150", "california-housing")
_HEADLINE_HEADER = ("| plan | candidate | smaller | faster | lost on test |", "| --- | --- | --- | --- | --- |")
_FEW_REPEATS = 5
_LOST = ("drop of accuracy", "rise of RMSE")
_PREFACE = """# Benchmark results

Made by `make bench` from the JSON files beside it; do not edit. A figure with `x` is a ratio of two things
that were measured in turns in one run on one machine, so that whatever slowed the machine slowed both.
Absolute times are in the JSON files; those of two machines or two moments are not compared. A figure is the
median of its repeats, with the lowest and the highest where they differ, and the mean where they are few. A share
of runs, or a rate, stands with its exact 95 % interval in their place.
"""


def read_results(folder: Path) -> list[BenchmarkResult]:
    """Return all results in `folder`, by name.

    Raises:
        DataError: a file is not a result.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(BenchmarkResult.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise DataError(
                f"{path} is not a benchmark result: {error}; remove it or run the benchmark again"
            ) from error
    return results


def write_page(folder: Path) -> None:
    """Write README.md from the results in `folder`."""
    write_atomically(folder / "README.md", page(read_results(folder)).encode())


def page(results: Sequence[BenchmarkResult]) -> str:
    """Return the whole page: each benchmark with its figures and how they were measured."""
    return "\n".join([_PREFACE, *(line for one in results for line in _section(one))])


def table_rows(result: BenchmarkResult) -> list[str]:
    """Return one line of the table under `HEADER` for each figure that is not only supporting another."""
    return [
        _row((result.name, f"{one.subject}: {one.name}" if one.subject else one.name, *_summary(one)))
        for one in result.figures
        if not one.supporting
    ]


def matrix(figures: Sequence[Figure]) -> list[str]:
    """Return a table with a row for each subject and a column for each figure; a cell without a figure is empty."""
    rows: dict[str, dict[str, Figure]] = {}
    for one in figures:
        rows.setdefault(one.subject, {})[one.name] = one
    names = _column_order([list(row) for row in rows.values()])
    return [
        _row(("", *names)),
        _row(("---",) * (len(names) + 1)),
        *(
            _row((subject, *(_cell(row[name]) if name in row else "" for name in names)))
            for subject, row in rows.items()
        ),
    ]


def headline(results: Sequence[BenchmarkResult]) -> list[str]:
    """Return the README's table: what the shipped plans' candidates reach beside their baselines."""
    rows = []
    for result in (one for one in results if one.name in _HEADLINED):
        cells = {(one.subject, one.name): _cell(one) for one in result.figures}
        for subject in dict.fromkeys(one.subject for one in result.figures):
            lost = next((cells[subject, name] for name in _LOST if (subject, name) in cells), None)
            if lost is not None:
                ratios = (cells[subject, f"{what}, baseline / it"] for what in ("size", "latency"))
                rows.append(_row((result.name, subject, *ratios, lost)))
    return [*_HEADLINE_HEADER, *rows]


def _column_order(rows: Sequence[Sequence[str]]) -> list[str]:
    """Put each name where the row puts it that has most before it."""
    last: dict[str, int] = {}
    for row in rows:
        for place, name in enumerate(row):
            last[name] = max(place, last.get(name, 0))
    return sorted(last, key=lambda name: last[name])


def _section(result: BenchmarkResult) -> list[str]:
    shown = [one for one in result.figures if not one.supporting]
    alone = [_row((one.name, *_summary(one))) for one in shown if not one.subject]
    compared = [one for one in shown if one.subject]
    return [
        *_description(result),
        *([*_SECTION_HEADER, *alone, ""] if alone else []),
        *([*matrix(compared), ""] if compared else []),
    ]


def _summary(one: Figure) -> tuple[str, str, str]:
    return _with_unit(one), _spread(one), str(one.num_repeats)


def _cell(one: Figure) -> str:
    spread = _spread(one)
    return f"{_with_unit(one)} ({spread})" if spread else _with_unit(one)


def _spread(one: Figure) -> str:
    """Return the interval of what was counted, else the extremes, with the mean where repeats are few.

    Of few repeats the median alone says little.
    """
    if one.interval is not None:
        return " to ".join(_number(bound) for bound in one.interval)
    low, high = _number(one.min), _number(one.max)
    mean = "" if one.mean is None or one.num_repeats > _FEW_REPEATS else f", mean {_number(one.mean)}"
    return "" if low == high else f"{low} to {high}{mean}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _with_unit(one: Figure) -> str:
    return f"{_number(one.median)}{'x' if one.unit == RATIO else ' ' + one.unit}".rstrip()


def _number(value: float) -> str:
    """Whole numbers with thousands separators, others with three significant digits."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _description(result: BenchmarkResult) -> list[str]:
    seeds = ", ".join(f"{name} {seed}" for name, seed in result.seeds.items()) or "none"
    return [
        f"## {result.name}",
        "",
        " ".join(filter(None, (result.question, result.setup, result.remark))),
        "",
        f"Measured on {result.measured_on} in {result.seconds:.0f} s. Seeds: {seeds}. {_machine(result.machine)} "
        f"{_versions(result.versions)}.",
        "",
    ]


def _machine(machine: Machine) -> str:
    gib = machine.memory_bytes / 2**30
    instructions = f" ({', '.join(machine.instructions)})" if machine.instructions else ""
    return f"{machine.processor}{instructions}, {machine.num_cpus} CPUs, {gib:.0f} GiB, {machine.system}."


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
