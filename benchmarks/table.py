"""The Markdown page made from the results' JSON files, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmarks.result import RATIO, BenchmarkResult, Figure
from tasks.adapters.local_store import write_atomically
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import Machine

HEADER = ("| benchmark | figure | median | min to max | repeats |", "| --- | --- | --- | --- | --- |")
_PREFACE = """# Benchmark results

Made by `make bench` from the JSON files beside it; do not edit. A figure with `x` is a ratio of two things
that were measured in turns in one run on one machine, so that whatever slowed the machine slowed both.
Absolute times are in the JSON files; those of two machines or two moments are not compared.
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
    """Return the whole page: one table over all results, then how each was measured."""
    rows = [row for result in results for row in table_rows(result)]
    return "\n".join([_PREFACE, *HEADER, *rows, "", *(line for one in results for line in _description(one))])


def table_rows(result: BenchmarkResult) -> list[str]:
    """Return one table line for each figure that is not only supporting another."""
    return [_row(result.name, one) for one in result.figures if not one.supporting]


def _row(name: str, one: Figure) -> str:
    spread = "" if one.num_repeats == 1 else f"{_number(one.min)} to {_number(one.max)}"
    cells = (name, one.name, _with_unit(one), spread, str(one.num_repeats))
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
        f"{result.question} {result.setup}",
        "",
        f"Measured on {result.measured_on} in {result.seconds:.0f} s. Seeds: {seeds}. {_machine(result.machine)} "
        f"{_versions(result.versions)}.",
        "",
    ]


def _machine(machine: Machine) -> str:
    gib = machine.memory_bytes / 2**30
    return f"{machine.processor}, {machine.num_cpus} CPUs, {gib:.0f} GiB, {machine.system}."


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
